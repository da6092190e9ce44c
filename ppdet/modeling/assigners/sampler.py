"""Random choice of positives and negatives on the device (Fast R-CNN, 1504.08083, section 2.3).

Symbols: B images, N candidates per image.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["choose", "sample"]


def choose(flags: Tensor, limit: int | Tensor, random: bool = True) -> Tensor:
    """Keep at most ``limit`` of the set flags of each row.

    Args:
        flags: [B, N] bool.
        limit: one integer or [B, 1].
        random: choose at random; otherwise keep the first flags.

    Returns:
        [B, N] bool, a subset of ``flags``.
    """
    count = flags.shape[1]
    if isinstance(limit, int) and limit >= count:
        return flags
    if random:
        key = paddle.rand(flags.shape)
    else:
        key = paddle.linspace(0.0, 1.0, count).unsqueeze(0).expand(flags.shape)
    key = paddle.where(flags, key, paddle.full_like(key, 2.0))
    rank = paddle.argsort(paddle.argsort(key, axis=1), axis=1)
    return paddle.logical_and(flags, rank < limit)


def sample(assigned: Tensor, limit: int, positive_fraction: float, random: bool = True) -> tuple[Tensor, Tensor]:
    """Sample up to ``limit`` candidates per image: positives up to a fraction, then negatives.

    Args:
        assigned: [B, N] int64 as in :class:`~ppdet.modeling.assigners.matcher.Match`.
        limit: candidates to sample per image.
        positive_fraction: largest share of positives.
        random: see :func:`choose`.

    Returns:
        positives [B, N] bool and negatives [B, N] bool.
    """
    positives = choose(assigned > 0, int(limit * positive_fraction), random)
    if limit >= assigned.shape[1]:
        return positives, assigned == 0
    left = limit - positives.astype("int64").sum(axis=1, keepdim=True)
    return positives, choose(assigned == 0, left, random)
