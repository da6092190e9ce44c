"""What RoI heads look at."""

from __future__ import annotations

from typing import NamedTuple

from paddle import Tensor

__all__ = ["Features"]


class Features(NamedTuple):
    """Feature maps of a batch.

    Attributes:
        pyramid: P2..P6, each [B, C, H / stride, W / stride].
        semantic: [B, C, H / 8, W / 8] of the semantic branch, or None without it.
    """

    pyramid: list[Tensor]
    semantic: Tensor | None = None
