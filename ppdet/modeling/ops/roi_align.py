"""RoIAlign on one level or a pyramid (Mask R-CNN, 1703.06870, section 3; FPN, 1612.03144, equation 1).

Symbols: B images, R RoIs of the whole batch, C channels, h x w the size of a map.
"""

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
    """Return the pyramid level of each RoI: floor(log2(sqrt(area) / finest_scale + 1e-6)) clipped to 0..levels-1.

    Args:
        boxes: [R, 4] xyxy.
        levels: number of levels; 0 is the finest.
        finest_scale: half the side in pixels below which square RoIs belong to level 0.

    Returns:
        [R] int64.
    """
    boxes = as_float32(boxes)
    scale = paddle.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    # An empty RoI gives log2(1e-6), which is clipped to level 0. The clip precedes the cast because of infinities.
    level = paddle.floor(paddle.log2(scale / finest_scale + 1e-6))
    return level.clip(0, levels - 1).astype("int64")


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    rois_num: Tensor,
    scales: Sequence[float],
    resolution: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    finest_scale: float = 56.0,
) -> Tensor:
    """Pool the features of each RoI from the level that fits its size.

    Args:
        features: one [B, C, h, w] per level, finest first.
        boxes: [R, 4] xyxy in pixels of the network input, image by image.
        rois_num: [B] int32, RoIs of each image.
        scales: feature pixels per input pixel, one for each level.
        resolution: side of the output.
        sampling_ratio: samples per bin and axis; 0 adapts to the size of the RoI.
        aligned: half-pixel correction.
        finest_scale: see :func:`roi_levels`.

    Returns:
        [R, C, resolution, resolution] float32, zeros for RoIs without area.
    """
    # RoIAlign computes positions in the type of the features, which must not be a half type.
    boxes, features = as_float32(boxes), [as_float32(feature) for feature in features]
    nonempty = is_nonempty(boxes)
    if len(features) == 1:
        boxes = or_outside(boxes, nonempty)
        return _align_level(features[0], boxes, rois_num, scales[0], resolution, sampling_ratio, aligned)
    level = roi_levels(boxes, len(features), finest_scale)
    boxes = or_outside(boxes, nonempty)
    pool = _pool_selected if may_depend_on_data(boxes) else _pool_all

    def align(feature: Tensor, rois: Tensor, count: Tensor, scale: float) -> Tensor:
        return _align_level(feature, rois, count, scale, resolution, sampling_ratio, aligned)

    return pool(align, features, boxes, rois_num, scales, level)


def _align_level(
    feature: Tensor,
    boxes: Tensor,
    rois_num: Tensor,
    scale: float,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Apply Paddle's RoIAlign to one level."""
    if in_onnx_form():
        if not aligned:
            # The converter supports the half-pixel correction only. Without it RoIs are at least a feature pixel wide.
            low = boxes[:, :2]
            high = paddle.maximum(boxes[:, 2:], low + 1.0 / scale)
            boxes, aligned = paddle.concat([low, high], axis=1) + 0.5 / scale, True
        # The converter drops rois_num; the index of the image is passed in front of each box instead.
        image = image_of_rows(boxes, rois_num)[0].astype("float32")
        boxes = paddle.concat([image.unsqueeze(1), boxes], axis=1)[:, 1:]
    return roi_align(feature, boxes, rois_num, resolution, scale, sampling_ratio or -1, aligned)


_Align = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _pool_all(
    align: _Align, features: Sequence[Tensor], boxes: Tensor, rois_num: Tensor, scales: Sequence[float], level: Tensor
) -> Tensor:
    """Pool every RoI on every level; on all levels but its own it is moved outside of the image and gives zeros."""
    return paddle.add_n(
        [
            align(feature, or_outside(boxes, level == index), rois_num, scale)
            for index, (feature, scale) in enumerate(zip(features, scales))
        ]
    )


def _pool_selected(
    align: _Align, features: Sequence[Tensor], boxes: Tensor, rois_num: Tensor, scales: Sequence[float], level: Tensor
) -> Tensor:
    """Pool every RoI on its own level only."""
    # An additional RoI of the first image, outside of it, is pooled on every level, so that no level is empty.
    image = paddle.concat([paddle.zeros([1], dtype="int64"), image_of_rows(boxes, rois_num)[0]])
    boxes = paddle.concat([constant(*_OUTSIDE).unsqueeze(0), boxes])
    level = paddle.concat([paddle.full([1], -1, dtype="int64"), level])
    images = positions(rois_num).unsqueeze(1)
    pooled, rows = [], []
    for index, (feature, scale) in enumerate(zip(features, scales)):
        selected = paddle.nonzero(paddle.logical_or(level == index, level < 0)).flatten()
        count = (image.gather(selected).unsqueeze(0) == images).astype("int32").sum(axis=1).astype("int32")
        pooled.append(align(feature, boxes.gather(selected), count, scale))
        rows.append(selected)
    order = paddle.concat(rows).argsort()[len(features) :]  # without the additional RoIs
    return paddle.concat(pooled).gather(order)


def or_outside(boxes: Tensor, keep: Tensor) -> Tensor:
    """Replace the boxes [R, 4] for which ``keep`` [R] is false by a small box far outside of any image.

    Empty boxes must not reach Paddle's RoIAlign, which divides by their number of samples, zero.
    """
    zeros = paddle.zeros_like(boxes)  # expand_as would lose a length that is only known at run time
    outside = zeros + constant(*_OUTSIDE)
    return paddle.where(zeros + keep.astype("float32").unsqueeze(1) > 0, boxes, outside)
