"""Images without annotations, for prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ppdet.core.config.ranges import ClassCount
from ppdet.core.workspace import register, serializable
from ppdet.data.source.annotations import read_annotations
from ppdet.structures.categories import Categories
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["ImageFolder"]

logger = setup_logger(__name__)


@register
@serializable
class ImageFolder:
    """Image files, and the classes to detect in them.

    The classes are those of the weights (`set_categories`). If the weights do not name them, they are read from an
    annotation file. Without one, 80 classes are assumed to be COCO's, and any other number of classes gets numbers as
    names.

    Args:
        dataset_dir: folder that ``anno_path`` is relative to.
        image_dir: accepted for compatibility with PaddleDetection's configs; :meth:`set_images` sets the images.
        anno_path: COCO file whose categories give the class names and ids, for weights without them.
        num_classes: number of classes, K.

    Attributes:
        training_fields: empty, because there is no ground truth.
    """

    training_fields: frozenset[str] = frozenset()

    __shared__ = ["num_classes"]

    def __init__(
        self, dataset_dir: str = "", image_dir: str = "", anno_path: str = "", num_classes: ClassCount | None = None
    ) -> None:
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.anno_path = os.path.join(dataset_dir, anno_path) if anno_path else ""
        self.num_classes = num_classes
        self._categories: Categories | None = None
        self.paths: list[str] = []

    def set_categories(self, categories: Categories) -> None:
        """Set the classes to those of the weights; no annotation file is read then."""
        self._categories = categories

    @property
    def categories(self) -> Categories:
        """The classes, in the order of the labels.

        Raises:
            UserError: the annotation file cannot be read, or its number of categories is not ``num_classes``.
        """
        if self._categories is None:
            self._categories = self._from_file()
        return self._categories

    @property
    def class_names(self) -> list[str]:
        """The name of each label."""
        return list(self.categories.names)

    @property
    def category_ids(self) -> list[int]:
        """The category id of each label."""
        return list(self.categories.ids)

    def _from_file(self) -> Categories:
        """Return the classes of the annotation file, or those that are assumed without one."""
        count = self.num_classes or 0
        if self.anno_path and os.path.exists(self.anno_path):
            listed = sorted(read_annotations(self.anno_path)["categories"], key=lambda category: category["id"])
            if self.num_classes is not None and count != len(listed):
                raise UserError(
                    f"{self.anno_path} has {len(listed)} categories, but num_classes is {count}, and the weights do "
                    "not name their classes: set TestDataset.anno_path to an annotation file of the training data"
                )
            names = (str(category["name"]) for category in listed)
            return Categories(tuple(names), tuple(int(category["id"]) for category in listed))
        coco = Categories.coco()
        missing = f", and {self.anno_path} does not exist" if self.anno_path else ""
        if count == len(coco):
            logger.warning("the weights do not name their classes%s: the 80 classes are assumed to be COCO's", missing)
            return coco
        logger.warning(
            "the weights do not name their classes%s: class names and ids are numbers (to get names, set "
            "TestDataset.anno_path to an annotation file of the training data)",
            missing,
        )
        return Categories.numbered(max(count, 1))

    def set_images(self, paths: Sequence[str]) -> None:
        """Set the image files."""
        self.paths = list(paths)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def is_landscape(self, index: int) -> bool:
        """Return True: images for prediction are not grouped by orientation."""
        return True

    def __getitem__(self, index: int) -> Sample:
        """Return the index-th image, not yet decoded; its id is its index."""
        return Sample(self.paths[index], index, (0, 0))
