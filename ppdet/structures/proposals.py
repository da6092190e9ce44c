"""Boxes on their way through the cascade.

Every count that depends on the data lives in a boolean mask, not in a shape: a training step then has the same shapes
each time and never asks the device how many boxes there are.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor

from ppdet.structures.shapes import may_depend_on_data

__all__ = ["Proposals", "SampledRoIs", "flat_rois"]


class Proposals(NamedTuple):
    """Candidate boxes.

    Attributes:
        boxes: [B, N, 4] float32 xyxy, input pixels.
        valid: [B, N] bool, False for slots that hold nothing.
    """

    boxes: Tensor
    valid: Tensor


class SampledRoIs(NamedTuple):
    """RoIs that an assigner drew: positives first, negatives next, empty slots last.

    Attributes:
        boxes: [B, S, 4] float32 xyxy, input pixels; empty slots are zero.
        labels: [B, S] int64, the matched object's class for positives, K (background) for the rest.
        gt_index: [B, S] int64, the matched ground-truth slot; meaningful for positives only.
        positive: [B, S] bool.
        valid: [B, S] bool, False for empty slots.
        is_gt: [B, S] bool, the RoI is a ground-truth box itself.
        max_positives: no positive lies in a slot from this one on (a Python integer).
    """

    boxes: Tensor
    labels: Tensor
    gt_index: Tensor
    positive: Tensor
    valid: Tensor
    is_gt: Tensor
    max_positives: int

    def positives_only(self) -> SampledRoIs:
        """The slots that can hold positives, [B, P, ...]; ``valid`` marks the positives.

        P is ``max_positives``, or, where a shape may depend on the data, the largest number of positives in an image
        of the batch (at least 1).
        """
        p = self.max_positives
        if paddle.in_dynamic_mode() and may_depend_on_data(self.positive):
            p = max(1, min(p, int(self.positive.astype("int32").sum(axis=1).max().item())))
        positive = self.positive[:, :p]
        return SampledRoIs(
            self.boxes[:, :p] * positive.unsqueeze(-1).astype("float32"),
            self.labels[:, :p],
            self.gt_index[:, :p],
            positive,
            positive,
            self.is_gt[:, :p],
            p,
        )


def flat_rois(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Slots [B, S, 4] as rows [B * S, 4] with their number per image [B] int32, as RoIAlign wants them."""
    return boxes.reshape([-1, 4]), paddle.zeros([boxes.shape[0]], dtype="int32") + boxes.shape[1]
