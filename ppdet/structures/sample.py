"""One image on its way from the annotation file to a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ppdet.structures.fields import Boxes, Field, LabelMap, Labels, Masks, ObjectField
from ppdet.structures.spatial import SpatialTransform
from ppdet.utils.errors import UserError

__all__ = ["Sample", "SemanticSource"]


class SemanticSource(Protocol):
    """Provides the semantic map of an image."""

    needs_masks: bool
    """The map is made from the instance masks."""

    def read(self, sample: Sample) -> np.ndarray:
        """Return the label map of a decoded sample, uint8 [h0, w0], 255 = ignore."""
        ...


@dataclass
class Sample:
    """An image and its objects; transforms change it step by step.

    h0 x w0 is the size of the original image, H x W that of the current one, G the number of objects. Boxes are xyxy
    in pixels of the CURRENT image.

    Attributes:
        image_path: image file.
        image_id: id in the annotation file, or a running number.
        orig_size: (h0, w0); until Decode (0, 0) if the annotation file does not state it.
        image: uint8 [H, W, 3] RGB; float32 after NormalizeImage; [3, H, W] after Permute; None before Decode.
        boxes: float32 [G, 4].
        labels: int64 [G] in 0..K-1.
        is_crowd: uint8 [G].
        segmentations: G raw COCO segmentations (polygons or RLE) in original pixels, which Decode turns into ``masks``;
            None if neither the model nor the semantic map needs them.
        masks: uint8 [G, H, W] of 0 and 1, or None.
        keep_masks: the model needs ``masks``; otherwise Decode drops them once the semantic map is made.
        semantic_source: reads or makes ``semantic``; None for a dataset without semantic maps.
        semantic: uint8 [H, W], 255 = ignore, or None.
        im_shape: (H, W).
        scale_factor: (y, x), current size over original size.
        replaces: for each broken image that this one replaces, the reason why it could not be used.
        extra: further fields by their key in the batch. ``gt_…`` are targets, which only training batches carry;
            all others are inputs of the model, which prediction batches carry as well.
    """

    image_path: str
    image_id: int
    orig_size: tuple[int, int]
    image: np.ndarray | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    is_crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    segmentations: list[Any] | None = None
    masks: np.ndarray | None = None
    keep_masks: bool = False
    semantic_source: SemanticSource | None = None
    semantic: np.ndarray | None = None
    im_shape: tuple[int, int] = (0, 0)
    scale_factor: tuple[float, float] = (1.0, 1.0)
    replaces: list[str] = field(default_factory=list)
    extra: dict[str, Field] = field(default_factory=dict)

    def pixels(self) -> np.ndarray:
        """Return the image.

        Raises:
            UserError: the image is not decoded yet: a list of transforms must begin with Decode.
        """
        if self.image is None:
            raise UserError(f"{self.image_path} is not decoded yet: sample_transforms must begin with Decode")
        return self.image

    def fields(self) -> dict[str, Field]:
        """Return everything but the image that goes into the batch, by its key there."""
        arrays = ((key, kind, getattr(self, name)) for name, (key, kind) in _ATTRIBUTES.items() if key)
        return {**{key: kind(array) for key, kind, array in arrays if array is not None}, **self.extra}

    def transform(self, spatial: SpatialTransform) -> None:
        """Change the geometry of the image and of everything that has coordinates in it."""
        self.image = spatial.image(self.pixels())
        self._replace(lambda field: field.transformed(spatial))
        self.im_shape = spatial.size
        y, x = spatial.factor
        self.scale_factor = (self.scale_factor[0] * y, self.scale_factor[1] * x)

    def select(self, keep: np.ndarray) -> None:
        """Remove objects from every field that has a row for each of them.

        Args:
            keep: bool [G], False for the objects that leave the sample.

        Raises:
            UserError: a field has another number of rows.
        """
        for key, part in {**self.fields(), "is_crowd": ObjectField(self.is_crowd)}.items():
            if part.per_object and len(part.array) != len(keep):
                raise UserError(
                    f"the field '{key}' of {self.image_path} has {len(part.array)} rows, but the image has {len(keep)} "
                    "objects: the dataset must supply one row for each object"
                )
        if self.segmentations is not None:
            self.segmentations = [outline for outline, kept in zip(self.segmentations, keep) if kept]
        self._replace(lambda field: field.select(keep))

    def _replace(self, change: Callable[[Field], Field]) -> None:
        for name, (_, kind) in _ATTRIBUTES.items():
            array = getattr(self, name)
            if array is not None:
                setattr(self, name, change(kind(array)).array)
        self.extra = {key: change(part) for key, part in self.extra.items()}


_ATTRIBUTES: dict[str, tuple[str, type[Field]]] = {
    "boxes": ("gt_bbox", Boxes),
    "labels": ("gt_class", Labels),
    "is_crowd": ("", ObjectField),
    "masks": ("gt_segm", Masks),
    "semantic": ("semantic", LabelMap),
}
"""Key in the batch, and class, of the attributes of a sample that are fields; those without key stay behind."""
