"""Geometry of boxes, masks and label maps (NumPy and OpenCV)."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["flip_boxes", "flip_pixels", "resize_nearest", "scale_boxes"]


def resize_nearest(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 label maps or bitmaps [..., H, W] to ``size`` (h, w), with the nearest neighbour."""
    if planes.ndim == 2:
        return np.asarray(cv2.resize(planes, (size[1], size[0]), interpolation=cv2.INTER_NEAREST))
    resized = np.empty((len(planes), *size), planes.dtype)
    for plane, target in zip(planes, resized):
        target[...] = resize_nearest(plane, size)
    return resized


def scale_boxes(boxes: np.ndarray, scale_factor: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Multiply xyxy boxes [G, 4] by (y, x) factors and clip them to [0, w] x [0, h] of ``size`` (h, w)."""
    y, x = scale_factor
    height, width = size
    scaled = boxes.astype(np.float32) * np.array([x, y, x, y], np.float32)
    return np.clip(scaled, 0, np.array([width, height, width, height], np.float32))


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Mirror xyxy boxes [G, 4] left to right in an image ``width`` wide: x1' = w - x2, x2' = w - x1."""
    flipped = boxes.copy()
    flipped[:, 0] = width - boxes[:, 2]
    flipped[:, 2] = width - boxes[:, 0]
    return flipped


def flip_pixels(pixels: np.ndarray, axis: int) -> np.ndarray:
    """Mirror an array along its horizontal axis; the result is contiguous."""
    return np.ascontiguousarray(np.flip(pixels, axis))
