"""What one module tells the next about its output."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ShapeSpec"]


class ShapeSpec(NamedTuple):
    """Channels of a feature map and input pixels per feature pixel."""

    channels: int
    stride: int
