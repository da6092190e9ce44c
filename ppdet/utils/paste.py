"""Masks of detections on the image: NumPy alone, shared by evaluation, pictures and deployment."""

from __future__ import annotations

import numpy as np

__all__ = ["paste_mask", "paste_region"]


def _weights(low: float, high: float, size: int, first: int, last: int) -> np.ndarray:
    """Bilinear weights of mask cells for the pixels first..last-1 along one axis, [pixels, size] float32.

    Pixel centre p + 0.5 falls on the mask coordinate (p + 0.5 - low) / (high - low) * size - 0.5; cells outside the
    mask count as zero (half-pixel centres, no corner alignment).
    """
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    unit = (pixels - np.float32(low)) / np.float32(high - low) * np.float32(2) - np.float32(1)
    position = ((unit + np.float32(1)) * np.float32(size) - np.float32(1)) / np.float32(2)
    left = np.floor(position)
    fraction = (position - left).astype(np.float32)
    weights = np.zeros((len(pixels), size), np.float32)
    rows = np.arange(len(pixels))
    for cell, share in ((left, 1 - fraction), (left + 1, fraction)):
        inside = (cell >= 0) & (cell < size)
        weights[rows[inside], cell[inside].astype(np.int64)] += share[inside]
    return weights


def paste_region(
    probability: np.ndarray, box: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Mask probabilities where they are not zero.

    Args:
        probability: [s, s] float32 in the frame of the box.
        box: (x1, y1, x2, y2) float32 in image pixels; it may reach beyond the image.
        height: of the image.
        width: of the image.

    Returns:
        [h, w] float32 of the part of the image that the box (and its soft border of half a mask cell) covers, and that
        part's upper left corner (y, x). The part is empty, h or w = 0, where the box is empty or off the image.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    if not (np.isfinite(box).all() and x2 > x1 and y2 > y1):
        return np.zeros((0, 0), np.float32), (0, 0)
    rows, columns = probability.shape
    # Beyond the box the values fade to zero within half a cell.
    soft_x, soft_y = (x2 - x1) / columns / 2 + 1, (y2 - y1) / rows / 2 + 1
    left, right = max(0, int(np.floor(x1 - soft_x))), min(width, int(np.ceil(x2 + soft_x)))
    top, bottom = max(0, int(np.floor(y1 - soft_y))), min(height, int(np.ceil(y2 + soft_y)))
    if left >= right or top >= bottom:
        return np.zeros((0, 0), np.float32), (0, 0)
    vertical = _weights(y1, y2, rows, top, bottom)
    horizontal = _weights(x1, x2, columns, left, right)
    return vertical @ probability.astype(np.float32) @ horizontal.T, (top, left)


def paste_mask(probability: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Bitmap of one detection on its image.

    Args:
        probability: see :func:`paste_region`.
        box: see :func:`paste_region`.
        height: of the image.
        width: of the image.
        threshold: pixels from this probability on belong to the object.

    Returns:
        uint8 [height, width] of 0 and 1, in Fortran order as run-length encoding wants it.
    """
    bitmap = np.zeros((height, width), np.uint8, order="F")
    region, (top, left) = paste_region(probability, box, height, width)
    if region.size:
        bitmap[top : top + region.shape[0], left : left + region.shape[1]] = region >= threshold
    return bitmap
