"""Mask targets: the part of an object's bitmap inside a RoI (Mask R-CNN, 1703.06870, section 3).

Symbols: B images, G ground-truth slots and P slots for positive RoIs per image; H x W is the padded network input.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.vision.ops import roi_align

from ppdet.core.config.ranges import PositiveInt
from ppdet.core.workspace import register
from ppdet.modeling.ops.boxes import is_nonempty
from ppdet.modeling.ops.constants import constant
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.ops.roi_align import or_outside
from ppdet.structures.proposals import SampledRoIs

__all__ = ["MaskAssigner"]


@register
class MaskAssigner:
    """Crops and resizes ground-truth bitmaps to the resolution of the mask head.

    Args:
        mask_resolution: side of the targets.
    """

    def __init__(self, mask_resolution: PositiveInt = 28) -> None:
        self.mask_resolution = mask_resolution

    @paddle.no_grad()
    def __call__(self, rois: SampledRoIs, masks: Tensor) -> Tensor:
        """Apply RoIAlign (aligned, adaptive sampling) to the bitmap of each RoI's object; pixels from 0.5 on are set.

        Args:
            rois: P slots per image. Slots without a positive get zeros.
            masks: [B, G, H, W] bitmaps.

        Returns:
            [B, P, resolution, resolution] float32 of zeros and ones.
        """
        batch, objects, height, width = masks.shape
        slots = rois.boxes.shape[1]
        limit = constant(width, height, width, height)
        boxes = paddle.minimum(as_float32(rois.boxes).clip(min=0), limit).reshape([-1, 4])
        boxes = or_outside(boxes, is_nonempty(boxes))
        image = paddle.arange(batch, dtype="int64").unsqueeze(1)
        owner = (image * objects + rois.gt_index).flatten()
        # RoIAlign takes RoIs sorted by bitmap; the original order is restored afterwards.
        order = paddle.argsort(owner * owner.shape[0] + paddle.arange(owner.shape[0], dtype="int64"))
        rois_num = (owner.unsqueeze(0) == paddle.arange(batch * objects, dtype="int64").unsqueeze(1)).astype("int32")
        pooled = roi_align(
            masks.reshape([batch * objects, 1, height, width]).astype("float32"),
            paddle.gather(boxes, order),
            rois_num.sum(axis=1).astype("int32"),
            self.mask_resolution,
            1.0,
            -1,
            True,
        )
        pooled = paddle.gather(pooled, paddle.argsort(order))
        pooled = pooled.reshape([batch, slots, self.mask_resolution, self.mask_resolution])
        return (pooled >= 0.5).astype("float32")
