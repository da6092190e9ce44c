"""Channels and strides that one module passes to the constructor of the next."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ShapeSpec"]


class ShapeSpec(NamedTuple):
    """Shape of a feature map.

    Attributes:
        channels: number of channels.
        stride: input pixels per feature pixel.
    """

    channels: int
    stride: int
