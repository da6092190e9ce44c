"""The interface between geometric transforms and everything that has coordinates in an image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

__all__ = ["SpatialTransform"]


class SpatialTransform(ABC):
    """One concrete change of an image's geometry, with all random numbers drawn.

    A field of a sample (:mod:`ppdet.structures.fields`) describes what it consists of (boxes, points, planes of
    pixels) and leaves the arithmetic to this class. A new field therefore works with every transform, and a new
    transform with every field.

    Coordinates are continuous (x, y) in pixels: the pixel in row i and column j covers i <= y <= i + 1 and
    j <= x <= j + 1, so that its centre is at (j + 0.5, i + 0.5).

    Attributes:
        size: (h, w) of the image afterwards.
        factor: (y, x) by which the image is resized; (1, 1) for transforms that do not resize.
        mirrors: left and right are exchanged, as in a mirror image.
    """

    size: tuple[int, int]
    factor: tuple[float, float] = (1.0, 1.0)
    mirrors: bool = False

    @abstractmethod
    def image(self, image: np.ndarray) -> np.ndarray:
        """Transform the image, [H, W, C]."""

    @abstractmethod
    def planes(self, planes: np.ndarray, fill: int) -> np.ndarray:
        """Transform bitmaps or label maps [..., H, W] without interpolating between labels.

        Args:
            planes: of any number type.
            fill: value of pixels that lie outside of the present image.
        """

    @abstractmethod
    def points(self, points: np.ndarray) -> np.ndarray:
        """Map points (x, y), [..., 2]. Points may leave the image."""

    @abstractmethod
    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map xyxy boxes [G, 4] to the boxes around their images."""
