"""Conversion of COCO segmentations to bitmaps, and of bitmaps to a label map (pycocotools, NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ppdet.structures.fields import IGNORE

__all__ = [
    "IGNORE",
    "decompress_runs",
    "is_valid_segmentation",
    "paint_labels",
    "rasterize",
    "rasterize_all",
    "stated_size",
    "valid_polygons",
]

_FARTHEST = 1e6
"""Polygons with a coordinate of at least this absolute value are invalid."""

_FREE_LENGTH, _LENGTH_SHARE = 100_000, 100
"""Rasterising takes memory for every pixel of an outline's edges, inside of the image or not. The edges of an object
may have this length in pixels, plus this multiple of the sum of height and width of the image."""

_MOST_MASK_BYTES = 2**34
"""Largest size of all bitmaps of one image, in bytes; a training has no more memory to spare."""


def valid_polygons(polygons: Sequence[Any], size: Sequence[int] = (0, 0)) -> list[list[float]]:
    """Return those polygons which have at least three points, an even number of coordinates, all finite.

    Args:
        polygons: of one object.
        size: (h, w) of its image, (0, 0) if unknown. No polygon is valid if the edges of all are so long that
            rasterising them would take gigabytes.
    """
    valid, longest = [], 0.0
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):  # strings, nested lists, numbers of 400 digits
            continue
        if points.ndim == 1 and points.size >= 6 and points.size % 2 == 0:
            farthest = np.abs(points).max()
            if farthest < _FARTHEST:
                valid.append(points.tolist())
                longest += farthest * points.size  # no edge is longer than twice the largest coordinate
    allowed = _FREE_LENGTH + _LENGTH_SHARE * (size[0] + size[1]) if min(size) > 0 else _FARTHEST
    if longest > allowed and sum(map(_edge_length, valid)) > allowed:
        return []
    return valid


def _edge_length(polygon: Sequence[float]) -> float:
    """Return the length in pixels of the edges of a closed polygon (x, y, x, y, …), max(|dx|, |dy|) for each edge."""
    corners = np.reshape(polygon, (-1, 2))
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def is_valid_segmentation(segmentation: Any, size: Sequence[int] = (0, 0)) -> bool:
    """Return whether a COCO segmentation can be rasterised: it has at least one valid polygon, or run lengths that
    fill the size they state.

    Args:
        segmentation: of one object.
        size: (h, w) of its image, (0, 0) if unknown; run lengths may state another size.
    """
    if isinstance(segmentation, list):
        return bool(valid_polygons(segmentation, size))
    stated = stated_size(segmentation)
    if stated is None:
        return False
    counts, pixels = segmentation.get("counts"), stated[0] * stated[1]
    runs: np.ndarray | None = None
    if isinstance(counts, list) and all(isinstance(run, int) and 0 <= run <= pixels for run in counts):
        runs = np.asarray(counts, np.int64)
    elif isinstance(counts, (str, bytes)):
        runs = decompress_runs(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts)
    # pycocotools leaves pixels beyond the runs uninitialised
    return runs is not None and bool((runs >= 0).all() and (runs <= pixels).all()) and int(runs.sum()) == pixels


def stated_size(segmentation: Any) -> tuple[int, int] | None:
    """Return the (h, w) that run lengths state; None for polygons and for invalid sizes."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        return None
    return (size[0], size[1]) if size[0] * size[1] < 2**31 else None


def decompress_runs(text: bytes) -> np.ndarray | None:
    """Decode the run lengths of a compressed COCO RLE.

    Every character holds five bits of a number, lowest first; bit 5 is set if more characters follow, and bit 4 of the
    last one is the sign. From the fourth number on the difference to the last but one is stored.

    Returns:
        int64 [number of runs], or None if the text is not such an encoding.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return None
    lasts = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate([[0], lasts[:-1] + 1])
    lengths = lasts - starts + 1
    if lengths.max() > 10:
        return None
    digit = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    numbers -= np.where(codes[lasts] & 0x10, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def rasterize(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draw a COCO segmentation at the size of its image with pycocotools.

    Args:
        segmentation: list of polygons (x, y, x, y, …), of which invalid ones are left out; or run lengths, a
            dict with ``size`` [h, w] and ``counts``, a list (uncompressed) or a string (compressed).

    Returns:
        uint8 [height, width] of 0 and 1.

    Raises:
        ValueError: nothing is valid, or the run lengths have another size.
    """
    stated = stated_size(segmentation)
    if stated is not None and stated != (height, width):
        raise ValueError(f"the run lengths have the size {list(stated)} (h, w), but the image has {[height, width]}")
    if not is_valid_segmentation(segmentation, (height, width)):
        raise ValueError("it has neither valid polygons nor valid run lengths")
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(valid_polygons(segmentation, (height, width)), height, width))
    else:
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    return np.ascontiguousarray(coco_mask.decode(rle), np.uint8)


def rasterize_all(segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Draw the segmentations of an image's objects, see :func:`rasterize`.

    Returns:
        uint8 [G, height, width] of 0 and 1.

    Raises:
        ValueError: a segmentation cannot be drawn (the message has its index), or there are too many for the size.
    """
    if len(segmentations) * height * width > _MOST_MASK_BYTES:
        raise ValueError(
            f"{len(segmentations)} objects of {width} x {height} pixels (width x height) need more than "
            f"{_MOST_MASK_BYTES // 2**30} GB for their masks; split the image into tiles"
        )
    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for place, segmentation in enumerate(segmentations):
        try:
            masks[place] = rasterize(segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"outline {place + 1} of {len(segmentations)}: {error}") from error
    return masks


def paint_labels(
    masks: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray, background: int | np.ndarray
) -> np.ndarray:
    """Make a label map from bitmaps; smaller objects cover larger ones, and of equal ones the later covers the earlier.

    Crowd regions are painted first, as ignore, so that objects outlined inside of a crowd keep their labels.

    Args:
        masks: uint8 [G, h, w]; G may be 0.
        labels: [G] label of each bitmap, below 255.
        is_crowd: [G].
        background: label of all other pixels, a number or a map [h, w]; 255 = ignore.

    Returns:
        uint8 [h, w].
    """
    painted = np.array(np.broadcast_to(background, masks.shape[1:]), np.uint8)
    areas = masks.reshape(len(masks), -1).sum(axis=1, dtype=np.int64) if len(masks) else np.zeros(0, np.int64)
    for index in np.lexsort((-areas, is_crowd == 0)):
        painted[masks[index] > 0] = IGNORE if is_crowd[index] else labels[index]
    return painted
