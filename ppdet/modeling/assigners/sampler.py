"""Random choice of a fixed number of positives and negatives (Fast R-CNN, section 2.3), on the device."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["choose", "sample"]


def choose(flags: Tensor, most: int | Tensor, random: bool = True) -> Tensor:
    """Keep at most ``most`` of the set flags of each row.

    Args:
        flags: [B, N] bool.
        most: the limit, one integer or [B, 1].
        random: draw at random; otherwise the first ones stay.

    Returns:
        [B, N] bool, a subset of ``flags``.
    """
    count = flags.shape[1]
    if isinstance(most, int) and most >= count:
        return flags
    if random:
        key = paddle.rand(flags.shape)
    else:
        key = paddle.linspace(0.0, 1.0, count).unsqueeze(0).expand(flags.shape)
    key = paddle.where(flags, key, paddle.full_like(key, 2.0))
    rank = paddle.argsort(paddle.argsort(key, axis=1), axis=1)
    return paddle.logical_and(flags, rank < most)


def sample(assigned: Tensor, number: int, positive_fraction: float, random: bool = True) -> tuple[Tensor, Tensor]:
    """Draw ``number`` candidates per image, up to a fraction of them positive; negatives fill up.

    Args:
        assigned: [B, N] int64 as in :class:`~ppdet.modeling.assigners.matcher.Match`.
        number: candidates to draw per image; fewer where there are not enough.
        positive_fraction: largest share of positives.
        random: see :func:`choose`.

    Returns:
        positives [B, N] bool and negatives [B, N] bool.
    """
    positives = choose(assigned > 0, int(number * positive_fraction), random)
    if number >= assigned.shape[1]:
        return positives, assigned == 0
    left = number - positives.astype("int64").sum(axis=1, keepdim=True)
    return positives, choose(assigned == 0, left, random)
