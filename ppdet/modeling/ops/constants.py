"""Small constants on the device."""

from __future__ import annotations

from functools import lru_cache

import paddle
from paddle import Tensor

__all__ = ["constant"]


def constant(*values: float) -> Tensor:
    """Python numbers as a tensor [n] float32 on the present device, not to be changed in place.

    In eager mode the tensor is made once for all: a GPU finishes what it was given before it takes numbers from the
    host, so that making constants anew in each step would cost as much as reading results back.
    """
    if paddle.in_dynamic_mode():
        return _uploaded(paddle.get_device(), values)
    return paddle.to_tensor(list(values), dtype="float32")


@lru_cache(maxsize=1024)
def _uploaded(device: str, values: tuple[float, ...]) -> Tensor:
    with paddle.no_grad():
        return paddle.to_tensor(list(values), dtype="float32")
