"""RoIAlign over one level or a pyramid (Mask R-CNN, section 3; FPN, equation 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor
from paddle.vision.ops import roi_align

from ppdet.modeling.ops.boxes import is_nonempty
from ppdet.modeling.ops.constants import constant
from ppdet.modeling.ops.nms import image_of_rows
from ppdet.modeling.ops.onnx_form import in_onnx_form
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.shapes import may_depend_on_data, positions

__all__ = ["or_outside", "pyramid_roi_align", "roi_levels"]

_OUTSIDE = (-10000.0, -10000.0, -9999.0, -9999.0)


def roi_levels(boxes: Tensor, levels: int, finest_scale: float = 56.0) -> Tensor:
    """Pyramid level of each RoI: floor(log2(sqrt(area) / finest_scale + 1e-6)) clipped to 0..levels-1.

    Args:
        boxes: [R, 4] xyxy.
        levels: number of levels; 0 is the finest.
        finest_scale: side in pixels up to twice which a square RoI stays on level 0.

    Returns:
        [R] int64.
    """
    boxes = as_float32(boxes)
    scale = paddle.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    # An empty RoI gives log2(1e-6), well below 0; the clip comes first so that no infinity reaches the cast.
    level = paddle.floor(paddle.log2(scale / finest_scale + 1e-6))
    return level.clip(0, levels - 1).astype("int64")


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    number: Tensor,
    scales: Sequence[float],
    resolution: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    finest_scale: float = 56.0,
) -> Tensor:
    """Features of each RoI from the level that fits its size.

    Args:
        features: one [B, C, h, w] per level, finest first.
        boxes: [R, 4] xyxy in input pixels, image by image.
        number: [B] int32 RoIs per image.
        scales: feature pixels per input pixel, one per level.
        resolution: side of the output.
        sampling_ratio: samples per bin and axis; 0 adapts to the RoI's size.
        aligned: half-pixel correction.
        finest_scale: see :func:`roi_levels`.

    Returns:
        [R, C, resolution, resolution] float32. A RoI without area gives zeros.
    """

    # Positions on the map are as fine as the features' type: both are float32.
    boxes, features = as_float32(boxes), [as_float32(feature) for feature in features]
    nonempty = is_nonempty(boxes)
    if len(features) == 1:
        boxes = or_outside(boxes, nonempty)
        return _align_level(features[0], boxes, number, scales[0], resolution, sampling_ratio, aligned)
    level = roi_levels(boxes, len(features), finest_scale)
    boxes = or_outside(boxes, nonempty)
    pool = _pool_selected if may_depend_on_data(boxes) else _pool_all

    def align(feature: Tensor, rois: Tensor, count: Tensor, scale: float) -> Tensor:
        return _align_level(feature, rois, count, scale, resolution, sampling_ratio, aligned)

    return pool(align, features, boxes, number, scales, level)


def _align_level(
    feature: Tensor,
    boxes: Tensor,
    number: Tensor,
    scale: float,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Paddle's RoIAlign on one level."""
    if in_onnx_form():
        if not aligned:
            # The converter knows the half-pixel correction only. Without it a RoI is at least a feature pixel large.
            low = boxes[:, :2]
            high = paddle.maximum(boxes[:, 2:], low + 1.0 / scale)
            boxes, aligned = paddle.concat([low, high], axis=1) + 0.5 / scale, True
        # The converter drops the number of RoIs per image: each RoI's image travels beside its box.
        image = image_of_rows(boxes, number)[0].astype("float32")
        boxes = paddle.concat([image.unsqueeze(1), boxes], axis=1)[:, 1:]
    return roi_align(feature, boxes, number, resolution, scale, sampling_ratio or -1, aligned)


_Align = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _pool_all(
    align: _Align, features: Sequence[Tensor], boxes: Tensor, number: Tensor, scales: Sequence[float], level: Tensor
) -> Tensor:
    """Every RoI on every level; on a level that is not its own a RoI is out of the picture, where it gives zeros."""
    return paddle.add_n(
        [
            align(feature, or_outside(boxes, level == index), number, scale)
            for index, (feature, scale) in enumerate(zip(features, scales))
        ]
    )


def _pool_selected(
    align: _Align, features: Sequence[Tensor], boxes: Tensor, number: Tensor, scales: Sequence[float], level: Tensor
) -> Tensor:
    """Every RoI on its own level alone."""
    # Row 0 is a RoI of the first image, out of the picture, that belongs to every level: none is ever empty.
    image = paddle.concat([paddle.zeros([1], dtype="int64"), image_of_rows(boxes, number)[0]])
    boxes = paddle.concat([constant(*_OUTSIDE).unsqueeze(0), boxes])
    level = paddle.concat([paddle.full([1], -1, dtype="int64"), level])
    images = positions(number).unsqueeze(1)
    pooled, rows = [], []
    for index, (feature, scale) in enumerate(zip(features, scales)):
        chosen = paddle.nonzero(paddle.logical_or(level == index, level < 0)).flatten()
        count = (image.gather(chosen).unsqueeze(0) == images).astype("int32").sum(axis=1).astype("int32")
        pooled.append(align(feature, boxes.gather(chosen), count, scale))
        rows.append(chosen)
    order = paddle.concat(rows).argsort()[len(features) :]  # without the additional rows
    return paddle.concat(pooled).gather(order)


def or_outside(boxes: Tensor, keep: Tensor) -> Tensor:
    """Boxes [R, 4] where ``keep`` [R] holds, elsewhere a small box far outside of any picture.

    Empty boxes never reach Paddle's RoIAlign: it divides by their number of samples, zero.
    """
    zeros = paddle.zeros_like(boxes)  # added to broadcast: a length known at run time only does not survive expand_as
    outside = zeros + constant(*_OUTSIDE)
    return paddle.where(zeros + keep.astype("float32").unsqueeze(1) > 0, boxes, outside)
