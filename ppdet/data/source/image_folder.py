"""Images without annotations, for prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ppdet.core.workspace import register, serializable
from ppdet.data.source.annotations import read_annotations
from ppdet.data.source.coco_categories import COCO_CATEGORIES
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["ImageFolder"]

logger = setup_logger(__name__)


@register
@serializable
class ImageFolder:
    """Image files, with class names from an annotation file if there is one.

    Args:
        dataset_dir: folder that ``anno_path`` is relative to.
        image_dir: accepted for PaddleDetection's configs; images come from :meth:`set_images`.
        anno_path: COCO file whose categories give the class names and ids. Where it does not exist, 80 classes are
            taken for COCO's, and others are named by their numbers.
        num_classes: K.

    Raises:
        UserError: the file has another number of categories than ``num_classes``.
    """

    __shared__ = ["num_classes"]

    def __init__(
        self, dataset_dir: str = "", image_dir: str = "", anno_path: str = "", num_classes: int | None = None
    ) -> None:
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.anno_path = os.path.join(dataset_dir, anno_path) if anno_path else ""
        if self.anno_path and os.path.exists(self.anno_path):
            categories = sorted(read_annotations(self.anno_path)["categories"], key=lambda category: category["id"])
            named = {category["id"]: category["name"] for category in categories}
            if num_classes is not None and num_classes != len(named):
                raise UserError(f"{self.anno_path} has {len(named)} categories, but num_classes is {num_classes}")
        elif num_classes == len(COCO_CATEGORIES):
            named = COCO_CATEGORIES
        else:
            named = {number: f"class {number}" for number in range(1, (num_classes or 0) + 1)}
        if self.anno_path and not os.path.exists(self.anno_path):
            meant = "COCO's" if named is COCO_CATEGORIES else "numbers"
            logger.warning("%s does not exist: class names and ids are %s", self.anno_path, meant)
        self.category_ids, self.class_names = list(named), list(named.values())
        self.paths: list[str] = []

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
