"""Matching of candidate boxes with ground truth (Faster R-CNN, 1506.01497, section 3.1.2).

Symbols: B images, G ground-truth slots and N candidates per image.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor

__all__ = ["Match", "match"]


class Match(NamedTuple):
    """Result of :func:`match`.

    Attributes:
        assigned: [B, N] int64: -1 ignored, 0 negative, k > 0 positive with ground-truth slot k - 1.
        overlap: [B, N] float32, highest IoU of the candidate; -1 for images without objects and for empty slots.
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
    """Match the candidates of a batch with ground truth by IoU, without reading a count from the device.

    Args:
        iou: [B, G, N] float32.
        gt_valid: [B, G] bool.
        candidate_valid: [B, N] bool; candidates that are not valid are ignored.
        positive: lowest IoU of positives.
        negative: IoU below which candidates are negative; those in between are ignored.
        low_quality: if given, all candidates with the highest IoU for an object are assigned to it, provided that this
            IoU is not lower than ``low_quality``; later objects overwrite earlier ones.

    Returns:
        The match. Without objects every valid candidate is negative.
    """
    valid = paddle.logical_and(gt_valid.unsqueeze(2), candidate_valid.unsqueeze(1))
    iou = paddle.where(valid, iou, paddle.full_like(iou, -1.0))
    overlap, best = iou.max(axis=1), iou.argmax(axis=1)
    ignored = paddle.full_like(best, -1)
    assigned = paddle.where(overlap < negative, paddle.zeros_like(best), ignored)
    assigned = paddle.where(overlap >= positive, best + 1, assigned)
    if low_quality is not None:
        best_of_gt = iou.max(axis=2, keepdim=True)  # [B, G, 1]
        claims = paddle.logical_and(paddle.logical_and(iou == best_of_gt, best_of_gt >= low_quality), valid)
        order = paddle.arange(1, iou.shape[1] + 1, dtype="int64").reshape([1, -1, 1])
        claimed = (claims.astype("int64") * order).max(axis=1)
        assigned = paddle.where(claimed > 0, claimed, assigned)
    return Match(paddle.where(candidate_valid, assigned, ignored), overlap)
