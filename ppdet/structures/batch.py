"""A batch as the model sees it.

Symbols used throughout: B images, H x W the padded input, G ground-truth slots per image (the largest count in the
batch, at least one; slots beyond an image's own objects are padding with ``valid == 0``), K things classes. Boxes are
xyxy in pixels of the resized, unpadded network input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor

__all__ = ["Batch", "Targets"]


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch.

    Attributes:
        boxes: [B, G, 4] float32.
        classes: [B, G] int64 in 0..K-1.
        valid: [B, G] bool, False for padding slots and for boxes without width or height, which have no logarithm to
            regress to: those of a pixel and more in a file may be left with none after clipping, scaling and mirroring.
        masks: [B, G, H, W] uint8 bitmaps on the padded input, or None for a model without mask head.
        semantic: [B, H, W] integer label map, 255 = ignore, or None for a model without semantic branch.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    masks: Tensor | None = None
    semantic: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Network input.

    Attributes:
        image: [B, 3, H, W] float32, normalised, padded with zeros on the right and at the bottom.
        im_shape: [B, 2] float32 (h, w) of each resized, unpadded image.
        scale_factor: [B, 2] float32 (y, x), resized / original.
        targets: ground truth, in training only.
    """

    image: Tensor
    im_shape: Tensor
    scale_factor: Tensor
    targets: Targets | None = None

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any], training: bool = False) -> Batch:
        """Build from a loader's dict (keys ``image``, ``im_shape``, ``scale_factor``, ``gt_bbox``, ``gt_class``,
        ``gt_valid``, ``gt_segm``, ``semantic``; keys this class does not know are left alone).

        Raises:
            KeyError: an input that the mode needs is missing.
        """
        targets = None
        if training:
            boxes, valid = inputs["gt_bbox"], inputs.get("gt_valid")
            nonempty = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
            targets = Targets(
                boxes=boxes,
                classes=inputs["gt_class"].astype("int64"),
                valid=nonempty if valid is None else paddle.logical_and(nonempty, valid.astype("bool")),
                masks=inputs.get("gt_segm"),
                semantic=inputs.get("semantic"),
            )
        image, im_shape = inputs["image"], inputs["im_shape"]
        scale_factor = inputs.get("scale_factor")
        if scale_factor is None:
            scale_factor = paddle.ones_like(im_shape)
        return cls(image, im_shape, scale_factor, targets)
