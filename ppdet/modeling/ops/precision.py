"""The border between what may compute in half precision and what must not."""

from __future__ import annotations

import paddle
from paddle import Tensor

__all__ = ["as_float32"]


def as_float32(x: Tensor) -> Tensor:
    """``x`` itself if it is float32, otherwise its values as float32.

    Boxes, overlaps, scores and losses compute in float32 whatever the network before them computed in: half precision
    ends at 65504, an area of 256 x 256 px, and places a coordinate beyond 1024 px to a whole pixel (float16) or to
    eight (bfloat16).
    """
    return x if x.dtype == paddle.float32 else x.astype("float32")
