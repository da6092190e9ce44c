"""Images without annotations, for prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ppdet.core.workspace import register, serializable
from ppdet.data.source.coco import read_annotations
from ppdet.structures.sample import Sample

__all__ = ["ImageFolder"]


@register
@serializable
class ImageFolder:
    """Image files, with class names from an annotation file if there is one.

    Args:
        dataset_dir: folder that ``anno_path`` is relative to.
        image_dir: accepted for PaddleDetection's configs; images come from :meth:`set_images`.
        anno_path: COCO file whose categories give the class names and ids; it need not exist.
        num_classes: K, for names and ids where there is no such file.
    """

    __shared__ = ["num_classes"]

    def __init__(
        self, dataset_dir: str = "", image_dir: str = "", anno_path: str = "", num_classes: int | None = None
    ) -> None:
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.anno_path = os.path.join(dataset_dir, anno_path) if anno_path else ""
        self.category_ids = list(range(1, (num_classes or 0) + 1))
        self.class_names = [f"class {i}" for i in self.category_ids]
        if self.anno_path and os.path.exists(self.anno_path):
            categories = sorted(read_annotations(self.anno_path)["categories"], key=lambda category: category["id"])
            self.category_ids = [int(category["id"]) for category in categories]
            self.class_names = [str(category["name"]) for category in categories]
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
