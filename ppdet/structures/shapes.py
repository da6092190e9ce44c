"""Shapes that depend on data, and shapes that a graph does not know before it runs."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["may_depend_on_data", "positions", "without_last"]


def may_depend_on_data(x: Tensor) -> bool:
    """Whether a shape may depend on what is in ``x``.

    On a GPU in eager mode it may not: the host would have to wait for the device. On a CPU leaving empty slots out
    saves the work on them, and an exported graph knows no host.
    """
    return not paddle.in_dynamic_mode() or x.place.is_cpu_place()


def positions(x: Tensor) -> Tensor:
    """0, 1, ... along a one-dimensional tensor, int64.

    In a static graph ``arange`` of a length known at run time only is given an arbitrary static shape by Paddle 3.3,
    and operators behind it are dropped as empty; a running sum keeps the length unknown.
    """
    if paddle.in_dynamic_mode():
        return paddle.arange(x.shape[0], dtype="int64")
    return paddle.cumsum(paddle.ones_like(x, dtype="int64")) - 1


def without_last(x: Tensor) -> Tensor:
    """``x[:-1]``; in a graph by another operator, because oneDNN's slice fails where nothing is left."""
    if paddle.in_dynamic_mode():
        return x[:-1]
    index = positions(x if len(x.shape) == 1 else x.flatten(1)[:, 0])
    return paddle.gather(x, paddle.nonzero(index < index.max()).flatten())
