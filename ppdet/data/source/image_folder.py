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
    """Image files, and the classes to be found in them.

    The classes are those of the weights (`set_categories`). Where the weights do not say, they are read from an
    annotation file; without one, 80 classes are taken for COCO's, and others are named by their numbers.

    Args:
        dataset_dir: folder that ``anno_path`` is relative to.
        image_dir: accepted for PaddleDetection's configs; images come from :meth:`set_images`.
        anno_path: COCO file whose categories give the class names and ids, for weights that do not carry them.
        num_classes: K.
    """

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
        """Take the classes from weights; no annotation file is read then."""
        self._categories = categories

    @property
    def categories(self) -> Categories:
        """The classes, in the order of the labels.

        Raises:
            UserError: the annotation file cannot be read, or has another number of categories than ``num_classes``.
        """
        if self._categories is None:
            self._categories = self._from_file()
        return self._categories

    @property
    def class_names(self) -> list[str]:
        """Name of each label."""
        return list(self.categories.names)

    @property
    def category_ids(self) -> list[int]:
        """Category id of each label."""
        return list(self.categories.ids)

    def _from_file(self) -> Categories:
        """The classes of the annotation file, or those that are assumed without one."""
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
            logger.warning("the weights do not name their classes%s: 80 classes are taken for COCO's", missing)
            return coco
        logger.warning(
            "the weights do not name their classes%s: class names and ids are numbers (TestDataset.anno_path names "
            "an annotation file of the training data)",
            missing,
        )
        return Categories.numbered(max(count, 1))

    def set_images(self, paths: Sequence[str]) -> None:
        """Choose the image files."""
        self.paths = list(paths)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def is_landscape(self, index: int) -> bool:
        """All images count as one kind."""
        return True

    def __getitem__(self, index: int) -> Sample:
        """The index-th image, not yet decoded; its id is its place in the list."""
        return Sample(self.paths[index], index, (0, 0))
