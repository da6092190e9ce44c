"""A batch as the model sees it.

Symbols used throughout: B images, H x W the padded input, G ground-truth slots per image (the largest count in the
batch, at least one; slots beyond an image's own objects are padding with ``valid == 0``), K things classes. Boxes are
xyxy in pixels of the resized, unpadded network input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor

from ppdet.structures.fields import is_target

__all__ = ["Batch", "Targets"]

_INPUTS = ("image", "im_shape", "scale_factor")
_TARGETS = ("gt_bbox", "gt_class", "gt_valid", "gt_segm", "semantic")
_FACTS = ("im_id", "orig_size", "im_path")
"""Information about the images for the evaluation, which the model does not receive."""


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch.

    Attributes:
        boxes: [B, G, 4] float32.
        classes: [B, G] int64 in 0..K-1.
        valid: [B, G] bool, False for padding slots and for boxes without width or height, which have no logarithm to
            regress to: a box of at least one pixel in the file may be left with none after clipping, scaling and
            mirroring.
        masks: [B, G, H, W] uint8 bitmaps on the padded input, or None for a model without mask head.
        semantic: [B, H, W] integer label map, 255 = ignore, or None for a model without semantic branch.
        extra: all other ``gt_…`` fields of the dataset under their keys, such as ``gt_keypoint`` [B, G, J, 3]
            float32; per-object fields are padded with zeros to the same G slots.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    masks: Tensor | None = None
    semantic: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Network input.

    Attributes:
        image: [B, 3, H, W] float32, normalised, padded with zeros on the right and at the bottom.
        im_shape: [B, 2] float32 (h, w) of each resized, unpadded image.
        scale_factor: [B, 2] float32 (y, x), resized / original.
        targets: ground truth, in training only.
        extra: further inputs under their keys: everything that is neither named above, nor ground truth (``gt_…``,
            ``semantic``), nor a fact about the images for the evaluation (``im_id``, ``orig_size``, ``im_path``).
            Per-object inputs [B, G, ...] come with ``object_valid`` [B, G] float32, 1 where a slot holds an object.
    """

    image: Tensor
    im_shape: Tensor
    scale_factor: Tensor
    targets: Targets | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def padded_extent(self) -> Tensor:
        """Return the (height, width) of each padded network input in pixels of its original image, [B, 2] float32.

        This is the ``mask_extent`` of masks in the frame ``image``, see
        :class:`~ppdet.structures.predictions.Predictions`.
        """
        # Both operands have two axes: oneDNN of Paddle 2.6 exchanges them if the first one has fewer.
        size = paddle.zeros_like(self.scale_factor) + paddle.shape(self.image)[2:].astype("float32")
        return size / self.scale_factor

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any], training: bool = False) -> Batch:
        """Build from a loader's dictionary.

        Args:
            inputs: ``image``, ``im_shape`` (H, W if absent), ``scale_factor`` (1 if absent) and, in training,
                ``gt_bbox``, ``gt_class``, ``gt_valid`` (all, if absent), ``gt_segm`` and ``semantic``; see ``extra``
                of :class:`Batch` and :class:`Targets` for all other keys.
            training: build the targets; otherwise ground truth is left out.

        Raises:
            KeyError: an input that the mode needs is missing.
        """
        image, im_shape, scale_factor = inputs["image"], inputs.get("im_shape"), inputs.get("scale_factor")
        if im_shape is None:  # as an exported graph does without the inputs that its model leaves out
            im_shape = paddle.zeros_like(image[:, 0, 0, :1]) + paddle.shape(image)[2:].astype("float32")
        if scale_factor is None:
            scale_factor = paddle.ones_like(im_shape)
        extra = {key: value for key, value in inputs.items() if key not in _INPUTS + _FACTS and not is_target(key)}
        return cls(image, im_shape, scale_factor, _targets(inputs) if training else None, extra)


def _targets(inputs: Mapping[str, Any]) -> Targets:
    boxes, valid = inputs["gt_bbox"], inputs.get("gt_valid")
    nonempty = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
    return Targets(
        boxes=boxes,
        classes=inputs["gt_class"].astype("int64"),
        valid=nonempty if valid is None else paddle.logical_and(nonempty, valid.astype("bool")),
        masks=inputs.get("gt_segm"),
        semantic=inputs.get("semantic"),
        extra={key: value for key, value in inputs.items() if is_target(key) and key not in _TARGETS},
    )
