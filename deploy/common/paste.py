"""Pasting of instance masks into the original image (NumPy only), shared by evaluation, drawing and deployment.

A model predicts each mask in one of three frames, and there is one function for each:

* ``box``: [s, s] cells that cover the detection's box (:func:`paste_box`);
* ``image``: [h, w] cells that cover the padded network input (:func:`paste_image`);
* ``affine``: [s, s] pixels placed in the image by a 2 x 3 matrix (:func:`paste_affine`).

All of them return the part of the bitmap that holds every pixel of the object, with the position of its upper left
corner. Everything outside of that part is 0, so time and memory depend on the object, not on the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Corner", "paste_affine", "paste_box", "paste_image", "paste_region", "place_part"]

_SLACK = 1e-4
"""An upper bound of float32 rounding errors. It only widens the searched part and never decides a pixel."""
_STRIP = 1 << 16
"""Pixels that :func:`paste_affine` computes at a time, which bounds its memory and fits the processor's cache."""

Corner = tuple[int, int]
"""(y, x) of the upper left pixel of a part of the image."""


def paste_box(
    probability: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> tuple[np.ndarray, Corner]:
    """Paste a mask whose cells cover the detection's box.

    Cells outside of the mask count as zero, so values fade out within half a cell beyond the box.

    Args:
        probability: [s, s] float32.
        box: (x1, y1, x2, y2) float32 in image pixels; it may extend beyond the image.
        height: of the image.
        width: of the image.
        threshold: a pixel belongs to the object if its probability is at least this value, which must be positive.

    Returns:
        bool [h, w] and the (y, x) of its upper left corner in the image; empty (h or w is 0) if no pixel belongs to the
        object.
    """
    window = _box_window(box, probability.shape, height, width)
    if window is None:
        return _nothing()
    vertical, horizontal, corner = window
    return _resampled(vertical, probability.astype(np.float32), horizontal, corner, threshold)


def paste_image(
    probability: np.ndarray, extent: Sequence[float], height: int, width: int, threshold: float = 0.5
) -> tuple[np.ndarray, Corner]:
    """Paste a mask whose cells cover the padded network input.

    Bilinear interpolation with half-pixel centres, the outermost cells extended to the border. The values are those of
    resizing the whole mask to the padded size (PyTorch's ``interpolate`` with ``align_corners=False``, OpenCV's
    ``INTER_LINEAR``) and cropping it to the image, but only cells that can reach the threshold are resized.

    Args:
        probability: [h, w] float32.
        extent: (height, width) of the padded network input in pixels of the original image.
        height: of the original image.
        width: of the original image.
        threshold: see :func:`paste_box`.

    Returns:
        see :func:`paste_box`; empty for an extent that is not positive and finite.
    """
    if not all(math.isfinite(side) and side > 0 for side in extent):
        return _nothing()
    reached = probability >= threshold - _SLACK
    rows, columns = _span(reached.any(axis=1)), _span(reached.any(axis=0))
    if rows[0] == rows[1]:
        return _nothing()
    top, vertical, used_rows = _stretch(rows, probability.shape[0], float(extent[0]), height)
    left, horizontal, used_columns = _stretch(columns, probability.shape[1], float(extent[1]), width)
    if not (len(vertical) and len(horizontal)):
        return _nothing()
    cells = probability[used_rows, used_columns].astype(np.float32)
    return _resampled(vertical, cells, horizontal, (top, left), threshold)


def paste_affine(
    probability: np.ndarray, matrix: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> tuple[np.ndarray, Corner]:
    """Paste a mask that a matrix places in the image.

    The matrix refers to pixel indices: mask pixel (0, 0) has its value exactly at the image position it is mapped to,
    without a half-pixel shift (the convention of ``cv2.warpAffine``). Bilinear interpolation, 0 outside of the mask.

    Args:
        probability: [h, w] float32.
        matrix: [2, 3], maps (x, y, 1) of a mask pixel to (x, y) in the image.
        height: of the image.
        width: of the image.
        threshold: see :func:`paste_box`.

    Returns:
        see :func:`paste_box`; empty for a matrix that cannot be inverted.
    """
    forward = np.asarray(matrix, np.float64)
    inverse = _inverse(forward)
    reached = probability >= threshold - _SLACK
    rows, columns = _span(reached.any(axis=1)), _span(reached.any(axis=0))
    if inverse is None or rows[0] == rows[1]:
        return _nothing()
    # A cell influences the open square of two mask pixels around it: its image is inside of these corners' bounds.
    corners = np.array([(x, y, 1.0) for x in (columns[0] - 1, columns[1]) for y in (rows[0] - 1, rows[1])])
    mapped = corners @ forward.T
    left, top = (_clipped(low, limit) for low, limit in zip(np.floor(mapped.min(axis=0)), (width, height)))
    right, bottom = (_clipped(high + 1, limit) for high, limit in zip(np.ceil(mapped.max(axis=0)), (width, height)))
    part = np.zeros((bottom - top, right - left), bool)
    if not part.size:
        return _nothing()
    padded = np.pad(probability.astype(np.float32), 1)
    step = max(1, _STRIP // part.shape[1])
    xs = np.arange(left, right, dtype=np.float64)
    for begin in range(0, len(part), step):
        end = min(begin + step, len(part))
        ys = np.arange(top + begin, top + end, dtype=np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # see `_resampled`
            part[begin:end] = _sampled(padded, inverse, xs, ys) >= threshold
    return _trimmed(part, (top, left))


def place_part(part: np.ndarray, corner: Corner, height: int, width: int) -> np.ndarray:
    """Lay a part out on its image.

    Args:
        part: bool [h, w], inside of the image.
        corner: (y, x) of its upper left pixel.
        height: of the image.
        width: of the image.

    Returns:
        uint8 [height, width] of 0 and 1, in Fortran order as COCO's run-length encoding expects it.
    """
    bitmap = np.zeros((height, width), np.uint8, order="F")
    top, left = corner
    bitmap[top : top + part.shape[0], left : left + part.shape[1]] = part
    return bitmap


def paste_region(probability: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Corner]:
    """Probabilities of a box-framed mask in the image, before any threshold.

    Args:
        probability: see :func:`paste_box`.
        box: see :func:`paste_box`.
        height: of the image.
        width: of the image.

    Returns:
        float32 [h, w] for the part of the image that the box and its soft border of half a cell cover, and the (y, x)
        of its upper left corner; empty (h or w is 0) if the box is empty or outside of the image.
    """
    window = _box_window(box, probability.shape, height, width)
    if window is None:
        return np.zeros((0, 0), np.float32), (0, 0)
    vertical, horizontal, corner = window
    return vertical @ probability.astype(np.float32) @ horizontal.T, corner


def _nothing() -> tuple[np.ndarray, Corner]:
    return np.zeros((0, 0), bool), (0, 0)


def _span(candidates: Any) -> tuple[int, int]:
    """Index of the first true value and one past the last; (0, 0) if there is none."""
    indices = np.flatnonzero(candidates)
    return (int(indices[0]), int(indices[-1]) + 1) if indices.size else (0, 0)


def _resampled(
    vertical: np.ndarray, probability: np.ndarray, horizontal: np.ndarray, corner: Corner, threshold: float
) -> tuple[np.ndarray, Corner]:
    """Interpolate a mask with the weights [pixels, cells] of both axes where the result can reach the threshold."""
    top, left = corner
    with np.errstate(invalid="ignore", over="ignore"):  # cells that are not finite belong to no object
        # The weights of a pixel sum to at most 1, so no value of a row (column) exceeds its largest interpolated cell.
        by_row = vertical @ probability
        first, last = _span(by_row.max(axis=1) >= threshold - _SLACK)
        begin, end = _span((probability @ horizontal.T).max(axis=0) >= threshold - _SLACK)
        if first == last or begin == end:
            return _nothing()
        return by_row[first:last] @ horizontal[begin:end].T >= threshold, (top + first, left + begin)


def _box_weights(low: float, high: float, size: int, first: int, last: int) -> np.ndarray:
    """Bilinear weights of mask cells for the pixels first..last-1 along one axis, [pixels, size] float32.

    The pixel centre p + 0.5 is at the mask coordinate (p + 0.5 - low) / (high - low) * size - 0.5; cells outside of the
    mask count as zero (half-pixel centres, no corner alignment).
    """
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):  # a box much thinner than a pixel: no pixel gets a weight
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


def _box_window(
    box: np.ndarray, shape: tuple[int, ...], height: int, width: int
) -> tuple[np.ndarray, np.ndarray, Corner] | None:
    """Weights [h, s] and [w, s] for the part of the image where a mask of this shape can exceed zero, and that part's
    upper left corner (y, x); None if there is no such part.
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
    return _box_weights(y1, y2, rows, top, bottom), _box_weights(x1, x2, columns, left, right), (top, left)


def _stretch(reach: tuple[int, int], size: int, extent: float, pixels: int) -> tuple[int, np.ndarray, slice]:
    """Weights of an image-framed mask along one axis, for the pixels that some cells influence.

    Args:
        reach: first of these cells and one past the last.
        size: number of all cells.
        extent: pixels that all cells cover together.
        pixels: length of the image.

    Returns:
        the first pixel, weights [pixels, cells] float32, and the cells that they refer to.
    """
    begin, end = reach
    cell = extent / size
    first = 0 if begin == 0 else _clipped(np.floor((begin - 0.5) * cell - 0.5), pixels)
    last = pixels if end == size else _clipped(np.ceil((end + 0.5) * cell - 0.5) + 1, pixels)
    if first >= last:
        return first, np.zeros((0, 0), np.float32), slice(0, 0)
    centres = np.arange(first, last, dtype=np.float64) + 0.5
    position = np.clip(centres / cell - 0.5, 0, size - 1)
    lower = np.floor(position).astype(np.int64)
    fraction = (position - lower).astype(np.float32)
    used = slice(int(lower[0]), min(size, int(lower[-1]) + 2))
    weights = np.zeros((last - first, used.stop - used.start), np.float32)
    rows = np.arange(last - first)
    weights[rows, lower - used.start] = 1 - fraction
    upper = np.minimum(lower + 1, size - 1) - used.start
    weights[rows, upper] += fraction
    return first, weights, used


def _clipped(value: float, limit: int) -> int:
    """A pixel index within 0..limit."""
    return int(min(max(value, 0), limit))


def _inverse(matrix: np.ndarray) -> np.ndarray | None:
    """The [2, 3] matrix that undoes another one; None if there is none."""
    with np.errstate(all="ignore"):
        (a, b, x), (c, d, y) = matrix
        determinant = a * d - b * c
        linear = np.array([[d, -b], [-c, a]]) / determinant
        inverse = np.concatenate([linear, -linear @ np.array([[x], [y]])], axis=1)
        usable = np.isfinite(matrix).all() and np.abs(inverse).max() < 1e100  # positions stay finite
    return inverse if usable else None


def _sampled(padded: np.ndarray, inverse: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Values float32 [ys, xs] of a mask at pixels of the image.

    Args:
        padded: the mask with a border of one zero on each side.
        inverse: [2, 3], from the image to the mask.
        xs: columns of the pixels.
        ys: rows of the pixels.
    """
    lower, fraction = [], []
    for (to_x, to_y, shift), size in zip(inverse, (padded.shape[1] - 2, padded.shape[0] - 2)):
        # From -1 and from ``size`` on, the value is that of the zeros around the mask.
        position = np.clip((to_x * xs + shift) + (to_y * ys)[:, None], -1, size)
        floor = np.minimum(np.floor(position), size - 1)
        lower.append(floor.astype(np.int64) + 1)
        fraction.append((position - floor).astype(np.float32))
    stride = padded.shape[1]
    flat, index = padded.ravel(), lower[1] * stride + lower[0]
    upper_row = flat[index] * (1 - fraction[0]) + flat[index + 1] * fraction[0]
    index += stride
    lower_row = flat[index] * (1 - fraction[0]) + flat[index + 1] * fraction[0]
    values: np.ndarray = upper_row * (1 - fraction[1]) + lower_row * fraction[1]
    return values


def _trimmed(part: np.ndarray, corner: Corner) -> tuple[np.ndarray, Corner]:
    """A part without the empty rows and columns around its pixels."""
    (first, last), (begin, end) = _span(part.any(axis=1)), _span(part.any(axis=0))
    return part[first:last, begin:end], (corner[0] + first, corner[1] + begin)
