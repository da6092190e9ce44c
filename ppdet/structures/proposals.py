"""Proposals and sampled RoIs.

Numbers of boxes depend on the data. They are kept in boolean masks rather than in shapes, so that all training steps
have the same shapes and the host never waits for a count from the device.
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
        valid: [B, N] bool, False for empty slots.
    """

    boxes: Tensor
    valid: Tensor


class SampledRoIs(NamedTuple):
    """RoIs sampled by an assigner, in the order positives, negatives, empty slots.

    Attributes:
        boxes: [B, S, 4] float32 xyxy, input pixels; empty slots are zero.
        labels: [B, S] int64, the class of the matched object for positives, K (background) for all others.
        gt_index: [B, S] int64, the slot of the matched object; only meaningful for positives.
        positive: [B, S] bool.
        valid: [B, S] bool, False for empty slots.
        is_gt: [B, S] bool, the RoI is itself a ground-truth box.
        max_positives: all positives are in the slots before this one (a Python integer).
    """

    boxes: Tensor
    labels: Tensor
    gt_index: Tensor
    positive: Tensor
    valid: Tensor
    is_gt: Tensor
    max_positives: int

    def positives_only(self) -> SampledRoIs:
        """Return the slots that can hold positives, [B, P, ...]; ``valid`` marks the positives.

        P is ``max_positives`` or, if shapes may depend on the data, the largest number of positives in an image of the
        batch (at least 1).
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
    """Return slots [B, S, 4] as rows [B * S, 4] with their number per image [B] int32, the inputs of RoIAlign."""
    return boxes.reshape([-1, 4]), paddle.zeros([boxes.shape[0]], dtype="int32") + boxes.shape[1]
