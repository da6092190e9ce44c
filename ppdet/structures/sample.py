"""One image on its way from the annotation file to a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ppdet.utils.errors import UserError

__all__ = ["Sample", "SemanticSource"]


class SemanticSource(Protocol):
    """Where the semantic map of an image comes from."""

    needs_masks: bool
    """The map is made from the instance masks."""

    def read(self, sample: Sample) -> np.ndarray:
        """Return the label map of a decoded sample, uint8 [h0, w0], 255 = ignore."""
        ...


@dataclass
class Sample:
    """An image and its objects; transforms change it step by step.

    h0 x w0 is the original image, H x W the current one. Boxes are xyxy in pixels of the CURRENT image.

    Attributes:
        image_path: file of the image.
        image_id: id in the annotation file, or a running number.
        orig_size: (h0, w0); (0, 0) until Decode where the annotation file does not tell.
        image: uint8 [H, W, 3] RGB; float32 after NormalizeImage; [3, H, W] after Permute; None before Decode.
        boxes: float32 [G, 4].
        labels: int64 [G] in 0..K-1.
        is_crowd: uint8 [G].
        segmentations: G raw COCO segmentations (polygons or RLE) in original pixels, until Decode turns them into
            ``masks``; None where neither the model nor the semantic map needs them.
        masks: uint8 [G, H, W] of 0 and 1, or None.
        keep_masks: the model wants ``masks``; otherwise Decode drops them once the semantic map is made.
        semantic_source: reads or makes ``semantic``, or None for a data set without semantic maps.
        semantic: uint8 [H, W], 255 = ignore, or None.
        im_shape: (H, W).
        scale_factor: (y, x), current size over original size.
        replaces: for each broken image that this one takes the place of, what is wrong with it.
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

    def pixels(self) -> np.ndarray:
        """Return the image.

        Raises:
            UserError: the image is not decoded yet: a list of transforms must begin with Decode.
        """
        if self.image is None:
            raise UserError(f"{self.image_path} is not decoded yet: sample_transforms must begin with Decode")
        return self.image
