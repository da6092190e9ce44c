"""The geometric changes that transforms consist of: resize, mirror, place or crop, affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from deploy.common.pixels import resize_image
from ppdet.data.transform.functional.geometry import flip_boxes, flip_pixels, resize_nearest, scale_boxes
from ppdet.structures.spatial import SpatialTransform

__all__ = ["Affine", "HorizontalFlip", "Place", "Scale"]


class Scale(SpatialTransform):
    """Resize the image; boxes are clipped to it.

    Args:
        before: (h, w) of the current image.
        size: (h, w) afterwards.
        interp: OpenCV interpolation of the image; masks and label maps take the nearest neighbour.
    """

    def __init__(self, before: Sequence[int], size: tuple[int, int], interp: int = cv2.INTER_LINEAR) -> None:
        self.size, self._interp = size, interp
        self.factor = (size[0] / before[0], size[1] / before[1])

    def image(self, image: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return resize_image(image, self.size, self._interp)

    def planes(self, planes: np.ndarray, fill: int) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return resize_nearest(planes, self.size)

    def points(self, points: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return np.asarray(points * np.array(self.factor[::-1], np.float32))

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return scale_boxes(boxes, self.factor, self.size)


class HorizontalFlip(SpatialTransform):
    """Mirror left to right.

    Args:
        size: (h, w) of the image.
    """

    mirrors = True

    def __init__(self, size: Sequence[int]) -> None:
        self.size = (size[0], size[1])

    def image(self, image: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return flip_pixels(image, 1)

    def planes(self, planes: np.ndarray, fill: int) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return flip_pixels(planes, -1)

    def points(self, points: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return np.stack([self.size[1] - points[..., 0], points[..., 1]], axis=-1)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return flip_boxes(boxes, self.size[1])


@dataclass
class Place(SpatialTransform):
    """Put the image on a canvas of another size; what reaches beyond the canvas is cut off.

    Attributes:
        size: (h, w) of the canvas.
        offset: (y, x) of the image's upper left corner on the canvas; negative values cut it off.
        color: value of the canvas, one or one for each channel.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    color: float | Sequence[float] = 0

    @classmethod
    def crop(cls, top: int, left: int, height: int, width: int) -> Place:
        """Cut out the rectangle of these pixels; what lies outside of the image is 0."""
        return cls((height, width), (-top, -left))

    def image(self, image: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        canvas = np.empty((*self.size, image.shape[2]), image.dtype)
        canvas[...] = self.color
        target, source = self._overlap(image.shape[:2])
        canvas[target] = image[source]
        return canvas

    def planes(self, planes: np.ndarray, fill: int) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        canvas = np.full((*planes.shape[:-2], *self.size), fill, planes.dtype)
        (rows, columns), (from_rows, from_columns) = self._overlap(planes.shape[-2:])
        canvas[..., rows, columns] = planes[..., from_rows, from_columns]
        return canvas

    def points(self, points: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return np.asarray(points + np.array(self.offset[::-1], np.float32))

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        return _around(self.points(boxes.reshape(-1, 2, 2)), self.size)

    def _overlap(self, before: Sequence[int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns of the canvas that the image covers, and those of the image."""
        target, source = [], []
        for offset, length, side in zip(self.offset, before, self.size):
            first, last = min(max(offset, 0), side), min(max(offset + length, 0), side)
            target.append(slice(first, last))
            source.append(slice(first - offset, last - offset) if last > first else slice(0, 0))
        return (target[0], target[1]), (source[0], source[1])


@dataclass
class Affine(SpatialTransform):
    """Warp the image by an affine map.

    Attributes:
        size: (h, w) of the result.
        matrix: [2, 3], maps indices (x, y, 1) of pixels of the current image to those of the result, as
            ``cv2.warpAffine`` takes it.
        color: value of pixels from outside of the image, one or one for each channel.
    """

    size: tuple[int, int]
    matrix: np.ndarray
    color: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        self.matrix = np.asarray(self.matrix, np.float64)
        self.mirrors = bool(np.linalg.det(self.matrix[:, :2]) < 0)

    def image(self, image: np.ndarray) -> np.ndarray:
        """Warp with bilinear interpolation."""
        color = [float(value) for value in np.broadcast_to(self.color, image.shape[2])]
        size = (self.size[1], self.size[0])
        return np.asarray(cv2.warpAffine(image, self.matrix, size, flags=cv2.INTER_LINEAR, borderValue=color))

    def planes(self, planes: np.ndarray, fill: int) -> np.ndarray:
        """Take the nearest pixel. (OpenCV 4.13.0 may warp in the wrong direction with ``INTER_NEAREST``.)"""
        height, width = planes.shape[-2:]
        inverse = np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))
        columns, rows = np.meshgrid(np.arange(self.size[1]), np.arange(self.size[0]))
        x, y = (np.rint(row[0] * columns + row[1] * rows + row[2]).astype(np.int64) for row in inverse[:2])
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        warped = np.full((*planes.shape[:-2], *self.size), fill, planes.dtype)
        warped[..., inside] = planes[..., y[inside], x[inside]]
        return warped

    def points(self, points: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`."""
        mapped = (points - 0.5) @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5
        return np.asarray(mapped, np.float32)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """See :class:`SpatialTransform`; a box that is turned grows to hold its corners."""
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return _around(self.points(corners), self.size)


def _around(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the boxes xyxy [G, 4] around points [G, N, 2], clipped to an image of ``size`` (h, w)."""
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    return np.clip(boxes, 0, np.array([size[1], size[0], size[1], size[0]], np.float32))
