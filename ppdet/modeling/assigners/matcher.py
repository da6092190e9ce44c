"""Which ground-truth object a candidate box belongs to (Faster R-CNN, section 3.1.2)."""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor

__all__ = ["Match", "match"]


class Match(NamedTuple):
    """Result of :func:`match`.

    Attributes:
        assigned: [B, N] int64: -1 ignored, 0 negative, k > 0 positive of ground-truth slot k - 1.
        overlap: [B, N] float32, the candidate's best IoU; -1 where the image has no object or the slot is empty.
    """

    assigned: Tensor
    overlap: Tensor


def match(
    iou: Tensor,
    gt_valid: Tensor,
    candidate_valid: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Match:
    """Match candidates with ground truth by IoU, for a whole batch and without asking the device for a count.

    Args:
        iou: [B, G, N] float32.
        gt_valid: [B, G] bool.
        candidate_valid: [B, N] bool; candidates that are not valid are ignored and claim nothing.
        positive: candidates from this IoU on are positive.
        negative: candidates below this IoU are negative; in between they are ignored.
        low_quality: if given, each object also claims every candidate that ties for its best IoU, provided that is at
            least this value; later objects overwrite earlier ones.

    Returns:
        The match. Without objects every valid candidate is negative.
    """
    both = paddle.logical_and(gt_valid.unsqueeze(2), candidate_valid.unsqueeze(1))
    iou = paddle.where(both, iou, paddle.full_like(iou, -1.0))
    overlap, best = iou.max(axis=1), iou.argmax(axis=1)
    ignored = paddle.full_like(best, -1)
    assigned = paddle.where(overlap < negative, paddle.zeros_like(best), ignored)
    assigned = paddle.where(overlap >= positive, best + 1, assigned)
    if low_quality is not None:
        best_of_gt = iou.max(axis=2, keepdim=True)  # [B, G, 1]
        claims = paddle.logical_and(paddle.logical_and(iou == best_of_gt, best_of_gt >= low_quality), both)
        order = paddle.arange(1, iou.shape[1] + 1, dtype="int64").reshape([1, -1, 1])
        claimed = (claims.astype("int64") * order).max(axis=1)
        assigned = paddle.where(claimed > 0, claimed, assigned)
    return Match(paddle.where(candidate_valid, assigned, ignored), overlap)
