"""Losses as functions of tensors. All compute in float32, whatever the type of their inputs."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from ppdet.modeling.losses.divisor import divisor_of
from ppdet.modeling.ops.precision import as_float32

__all__ = ["binary_cross_entropy", "cross_entropy", "safe_ratio", "semantic_cross_entropy", "smooth_l1"]


def safe_ratio(total: Tensor, count: Tensor) -> Tensor:
    """Return total / max(count, 1), a mean that is zero, with zero gradients, if there is nothing to average.

    See :mod:`ppdet.modeling.losses.divisor` for what ``count`` means with several processes.
    """
    return as_float32(total) / divisor_of(count)


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Compute elementwise 0.5 d^2 / beta below beta, d - beta / 2 above (Fast R-CNN, equation 3); L1 for beta 0."""
    distance = (as_float32(prediction) - as_float32(target)).abs()
    if beta <= 0:
        return distance
    return paddle.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the elementwise cross-entropy of sigmoid(logits) against targets in 0..1."""
    return F.binary_cross_entropy_with_logits(as_float32(logits), as_float32(target), reduction="none")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy [N] of softmax(logits [N, C]) against labels [N]."""
    return F.cross_entropy(as_float32(logits), labels, reduction="none").flatten()


def semantic_cross_entropy(
    logits: Tensor, labels: Tensor, stride: int, ignore: int = 255, over_all_pixels: bool = False
) -> Tensor:
    """Compute the mean cross-entropy of a semantic map against every stride-th label.

    Args:
        logits: [B, C, h, w].
        labels: [B, H, W] integers; H > stride * (h - 1) and W > stride * (w - 1).
        stride: input pixels per logit.
        ignore: label of pixels that are left out.
        over_all_pixels: divide by the number of all pixels (mmdetection since 2021) instead of the labelled ones
            (mmdetection 1.x and early 2.x, with which the published models were trained).

    Returns:
        0-D float32; 0 if no pixel is labelled.
    """
    height, width = logits.shape[2:]
    labels = labels[:, ::stride, ::stride][:, :height, :width].astype("int64").flatten()
    labelled = labels != ignore
    classes = logits.shape[1]
    rows = logits.transpose([0, 2, 3, 1]).reshape([-1, classes])
    losses = cross_entropy(rows, paddle.where(labelled, labels, paddle.zeros_like(labels)))
    weights = labelled.astype("float32")
    total = (losses * weights).sum()
    return safe_ratio(total, (paddle.ones_like(weights) if over_all_pixels else weights).sum())
