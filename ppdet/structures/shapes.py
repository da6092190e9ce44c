"""Whether shapes may depend on data."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["may_depend_on_data"]


def may_depend_on_data(x: Tensor) -> bool:
    """Whether a shape may depend on what is in ``x``.

    On a GPU in eager mode it may not: the host would have to wait for the device. On a CPU leaving empty slots out
    saves the work on them, and an exported graph knows no host.
    """
    return not paddle.in_dynamic_mode() or x.place.is_cpu_place()
