"""Shapes that depend on the data, and shapes that are unknown before a graph runs."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["may_depend_on_data", "positions", "without_last"]


def may_depend_on_data(x: Tensor) -> bool:
    """Return whether shapes may depend on the values of ``x``.

    On a GPU in eager mode they must not, because the host would have to wait for the device. On a CPU, leaving out
    empty slots saves computation, and in an exported graph no host is involved.
    """
    return not paddle.in_dynamic_mode() or x.place.is_cpu_place()


def positions(x: Tensor) -> Tensor:
    """Return 0, 1, ... along a one-dimensional tensor, int64.

    In a static graph Paddle 3.3 gives ``arange`` of a length known only at run time an arbitrary static shape, and
    removes the operators after it as empty. A cumulative sum keeps the length unknown.
    """
    if paddle.in_dynamic_mode():
        return paddle.arange(x.shape[0], dtype="int64")
    return paddle.cumsum(paddle.ones_like(x, dtype="int64")) - 1


def without_last(*tensors: Tensor) -> list[Tensor]:
    """Return ``x[:-1]`` of tensors with the same length; a graph gathers, as oneDNN's slice fails on empty results."""
    if paddle.in_dynamic_mode():
        return [x[:-1] for x in tensors]
    first = tensors[0]
    index = positions(first if len(first.shape) == 1 else first.flatten(1)[:, 0])
    kept = paddle.nonzero(index < index.max()).flatten()
    return [paddle.gather(x, kept) for x in tensors]
