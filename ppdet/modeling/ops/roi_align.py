"""RoIAlign over one level or a pyramid (Mask R-CNN, section 3; FPN, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor
from paddle.vision.ops import roi_align

from ppdet.modeling.ops.boxes import is_nonempty

__all__ = ["or_outside", "pyramid_roi_align", "roi_levels"]

_OUTSIDE = [-10000.0, -10000.0, -9999.0, -9999.0]


def roi_levels(boxes: Tensor, levels: int, canonical_size: float = 56.0) -> Tensor:
    """Pyramid level of each RoI: floor(log2(sqrt(area) / canonical_size + 1e-6)) clipped to 0..levels-1.

    Args:
        boxes: [R, 4] xyxy.
        levels: number of levels; 0 is the finest.
        canonical_size: side in pixels up to twice which a square RoI stays on level 0.

    Returns:
        [R] int64.
    """
    boxes = boxes.astype("float32")
    scale = paddle.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    # An empty RoI gives log2(1e-6), well below 0; the clip comes first so that no infinity reaches the cast.
    level = paddle.floor(paddle.log2(scale / canonical_size + 1e-6))
    return level.clip(0, levels - 1).astype("int64")


def pyramid_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    number: Tensor,
    scales: Sequence[float],
    resolution: int,
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = 56.0,
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
        canonical_size: see :func:`roi_levels`.

    Returns:
        [R, C, resolution, resolution]. A RoI without area gives zeros.
    """

    boxes = boxes.astype("float32")
    nonempty = is_nonempty(boxes)
    if len(features) == 1:
        return roi_align(
            features[0], or_outside(boxes, nonempty), number, resolution, scales[0], sampling_ratio or -1, aligned
        )
    level = roi_levels(boxes, len(features), canonical_size)
    pooled = None
    for index, (feature, scale) in enumerate(zip(features, scales)):
        # Rather than selecting this level's RoIs, which would make a shape depend on the data, all others move out of
        # the picture: there a RoI takes one sample per bin and gives exact zeros.
        rois = or_outside(boxes, paddle.logical_and(nonempty, level == index))
        part = roi_align(feature, rois, number, resolution, scale, sampling_ratio or -1, aligned)
        pooled = part if pooled is None else pooled + part
    return pooled


def or_outside(boxes: Tensor, keep: Tensor) -> Tensor:
    """Boxes [R, 4] where ``keep`` [R] holds, elsewhere a small box far outside of any picture.

    Empty boxes never reach Paddle's RoIAlign: it divides by their number of samples, zero.
    """
    outside = paddle.to_tensor(_OUTSIDE, dtype="float32").unsqueeze(0).expand_as(boxes)
    return paddle.where(keep.unsqueeze(1).expand_as(boxes), boxes, outside)
