"""The boundary between computation in half precision and in float32."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["as_float32"]


def as_float32(x: Tensor) -> Tensor:
    """Return ``x`` as float32, or itself if it already is.

    Boxes, overlaps, scores and losses are computed in float32 even if the network runs in half precision: float16 ends
    at 65504, an area of 256 x 256 px, and coordinates beyond 1024 px would be rounded to whole pixels (float16) or to
    multiples of eight (bfloat16).
    """
    return x if x.dtype == paddle.float32 else x.astype("float32")
