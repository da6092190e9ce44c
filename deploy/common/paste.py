"""Masks of detections on the image: NumPy alone, shared by evaluation, pictures and deployment."""

from __future__ import annotations

import numpy as np

__all__ = ["paste_bitmap", "paste_mask", "paste_region"]

_SLACK = 1e-4
"""More than float32 rounding can move a value; used only to leave rows and columns out, never to decide a pixel."""

Corner = tuple[int, int]


def _weights(low: float, high: float, size: int, first: int, last: int) -> np.ndarray:
    """Bilinear weights of mask cells for the pixels first..last-1 along one axis, [pixels, size] float32.

    Pixel centre p + 0.5 falls on the mask coordinate (p + 0.5 - low) / (high - low) * size - 0.5; cells outside the
    mask count as zero (half-pixel centres, no corner alignment).
    """
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # a box far thinner than a pixel: no pixel gets a weight
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


def _window(
    box: np.ndarray, shape: tuple[int, ...], height: int, width: int
) -> tuple[np.ndarray, np.ndarray, Corner] | None:
    """Weights [h, s] and [w, s] of the part of the image where a mask of this shape can be above zero, and the part's
    upper left corner (y, x); None where there is no such part.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    if not (np.isfinite(box).all() and x2 > x1 and y2 > y1):
        return None
    rows, columns = shape
    # Beyond the box the values fade to zero within half a cell.
    soft_x, soft_y = (x2 - x1) / columns / 2 + 1, (y2 - y1) / rows / 2 + 1
    left, right = max(0, int(np.floor(x1 - soft_x))), min(width, int(np.ceil(x2 + soft_x)))
    top, bottom = max(0, int(np.floor(y1 - soft_y))), min(height, int(np.ceil(y2 + soft_y)))
    if left >= right or top >= bottom:
        return None
    return _weights(y1, y2, rows, top, bottom), _weights(x1, x2, columns, left, right), (top, left)


def paste_region(probability: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Corner]:
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
    window = _window(box, probability.shape, height, width)
    if window is None:
        return np.zeros((0, 0), np.float32), (0, 0)
    vertical, horizontal, corner = window
    return vertical @ probability.astype(np.float32) @ horizontal.T, corner


def _span(candidates: np.ndarray) -> tuple[int, int]:
    """First true place and one past the last; (0, 0) without any."""
    places = np.flatnonzero(candidates)
    return (int(places[0]), int(places[-1]) + 1) if places.size else (0, 0)


def paste_bitmap(
    probability: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> tuple[np.ndarray, Corner]:
    """The part of a detection's bitmap that holds all of its pixels: everything around it is 0.

    Costs what the object covers, not what the image does.

    Args:
        probability: see :func:`paste_region`.
        box: see :func:`paste_region`.
        height: of the image.
        width: of the image.
        threshold: pixels from this probability on belong to the object; above 0.

    Returns:
        bool [h, w] and its upper left corner (y, x) on the image; empty, h or w = 0, without a pixel.
    """
    nothing = np.zeros((0, 0), bool), (0, 0)
    window = _window(box, probability.shape, height, width)
    if window is None:
        return nothing
    vertical, horizontal, (top, left) = window
    probability = probability.astype(np.float32)
    # The weights of a pixel sum to 1 at most, so a row (column) stays below its largest interpolated cell.
    by_row = vertical @ probability
    first, last = _span(by_row.max(axis=1) >= threshold - _SLACK)
    begin, end = _span((probability @ horizontal.T).max(axis=0) >= threshold - _SLACK)
    if first == last or begin == end:
        return nothing
    return by_row[first:last] @ horizontal[begin:end].T >= threshold, (top + first, left + begin)


def paste_mask(probability: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """Bitmap of one detection on its image.

    Args:
        probability: see :func:`paste_region`.
        box: see :func:`paste_region`.
        height: of the image.
        width: of the image.
        threshold: pixels from this probability on belong to the object; above 0.

    Returns:
        uint8 [height, width] of 0 and 1, in Fortran order as run-length encoding wants it.
    """
    bitmap = np.zeros((height, width), np.uint8, order="F")
    part, (top, left) = paste_bitmap(probability, box, height, width, threshold)
    bitmap[top : top + part.shape[0], left : left + part.shape[1]] = part
    return bitmap
