"""Small constants on the device."""

from __future__ import annotations

from functools import lru_cache

import paddle
from paddle import Tensor

__all__ = ["constant"]


def constant(*values: float) -> Tensor:
    """Return Python numbers as a tensor [n] float32 on the current device, which must not be changed in place.

    In eager mode tensors are cached: a copy from the host to a GPU waits for all work queued before it, so that
    creating constants in every step would cost as much as reading results back.
    """
    if paddle.in_dynamic_mode():
        return _uploaded(paddle.get_device(), values)
    return paddle.to_tensor(list(values), dtype="float32")


@lru_cache(maxsize=1024)
def _uploaded(device: str, values: tuple[float, ...]) -> Tensor:
    with paddle.no_grad():
        return paddle.to_tensor(list(values), dtype="float32")
