"""Box arithmetic on tensors. Boxes are xyxy in pixels; all functions compute in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from ppdet.modeling.ops.constants import constant
from ppdet.modeling.ops.precision import as_float32

__all__ = [
    "MAX_LOG_RATIO",
    "boxes_to_original",
    "clip_boxes",
    "corner_factors",
    "decode_boxes",
    "encode_boxes",
    "is_nonempty",
    "pairwise_iou",
]

MAX_LOG_RATIO = math.log(1000.0 / 16.0)
"""Limit of |dw| and |dh| in decoding: a side changes at most by a factor of 62.5, as in the code of Fast R-CNN."""


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas [...] of boxes [..., 4] in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every pair, inter / max(union, 1e-6).

    Args:
        a: [B, N, 4].
        b: [B, M, 4].

    Returns:
        [B, N, M] float32.
    """
    a, b = as_float32(a).unsqueeze(2), as_float32(b).unsqueeze(1)
    width = paddle.minimum(a[..., 2], b[..., 2]) - paddle.maximum(a[..., 0], b[..., 0])
    height = paddle.minimum(a[..., 3], b[..., 3]) - paddle.maximum(a[..., 1], b[..., 1])
    inter = width.clip(min=0) * height.clip(min=0)
    union = box_area(a) + box_area(b) - inter
    return inter / union.clip(min=1e-6)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres [..., 2] (x, y) and sizes [..., 2] (w, h) of boxes [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) * 0.5, high - low


def encode_boxes(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Return the deltas (dx, dy, dw, dh) / stds from ``boxes`` to ``targets`` (R-CNN, 1311.2524, appendix C).

    Args:
        boxes: [..., 4].
        targets: [..., 4] in the same shape.
        stds: four divisors.

    Returns:
        [..., 4] float32; not finite where either box is empty, which callers have to mask.
    """
    centre, size = _centre_size(as_float32(boxes))
    target_centre, target_size = _centre_size(as_float32(targets))
    deltas = paddle.concat([(target_centre - centre) / size, paddle.log(target_size / size)], axis=-1)
    return deltas / constant(*stds)


def decode_boxes(boxes: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Apply deltas to boxes, the inverse of :func:`encode_boxes`; |dw| and |dh| are limited to :data:`MAX_LOG_RATIO`.

    Args:
        boxes: [..., 4]; leading axes broadcast against those of ``deltas``.
        deltas: [..., 4].
        stds: four multipliers.

    Returns:
        [..., 4] float32 xyxy, not clipped to the image.
    """
    centre, size = _centre_size(as_float32(boxes))
    deltas = as_float32(deltas) * constant(*stds)
    centre = centre + size * deltas[..., :2]
    half = size * paddle.exp(deltas[..., 2:].clip(-MAX_LOG_RATIO, MAX_LOG_RATIO)) * 0.5
    return paddle.concat([centre - half, centre + half], axis=-1)


def clip_boxes(boxes: Tensor, im_shape: Tensor) -> Tensor:
    """Clip boxes to their images, x to [0, w] and y to [0, h].

    Args:
        boxes: [B, ..., 4].
        im_shape: [B, 2] (h, w) of the unpadded images.

    Returns:
        [B, ..., 4] float32.
    """
    boxes, im_shape = as_float32(boxes), as_float32(im_shape)
    limit = paddle.concat([im_shape.flip(-1), im_shape.flip(-1)], axis=-1)  # [B, 4]: w, h, w, h
    for _ in range(len(boxes.shape) - 2):
        limit = limit.unsqueeze(1)
    return paddle.minimum(boxes.clip(min=0), limit)


def is_nonempty(boxes: Tensor) -> Tensor:
    """Return [...] bool: which of the boxes [..., 4] have width and height above zero."""
    boxes = as_float32(boxes)
    return paddle.logical_and(boxes[..., 2] > boxes[..., 0], boxes[..., 3] > boxes[..., 1])


def corner_factors(scale_factor: Tensor) -> Tensor:
    """Repeat the factors of y and x for the corners of a box: [B, 2] (y, x) to [B, 4] (x, y, x, y)."""
    scale_factor = as_float32(scale_factor)
    y, x = scale_factor[:, 0], scale_factor[:, 1]
    return paddle.stack([x, y, x, y], axis=1)


def boxes_to_original(boxes: Tensor, scale_factor: Tensor) -> Tensor:
    """Scale boxes from the network input to the original image, without clipping.

    Args:
        boxes: [B, N, 4] or [B, N, K, 4], pixels of the network input.
        scale_factor: [B, 2] (y, x), resized / original.
    """
    return as_float32(boxes) / corner_factors(scale_factor).reshape([-1, *[1] * (len(boxes.shape) - 2), 4])
