"""COCO segmentations to bitmaps, bitmaps to a label map (pycocotools, NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["IGNORE", "decompress_runs", "is_valid_segmentation", "paint_labels", "rasterize", "valid_polygons"]

IGNORE = 255
"""Label of pixels that the semantic loss leaves out."""

_FARTHEST = 1e6
"""A polygon with a coordinate beyond this is no polygon: rasterising it would take gigabytes."""


def valid_polygons(polygons: Sequence[Any]) -> list[list[float]]:
    """Return those polygons which have at least three points, an even number of coordinates, all finite."""
    valid = []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError):  # text, or lists within the list
            continue
        if points.ndim == 1 and points.size >= 6 and points.size % 2 == 0 and np.abs(points).max() < _FARTHEST:
            valid.append(points.tolist())
    return valid


def is_valid_segmentation(segmentation: Any) -> bool:
    """Return whether a COCO segmentation can be rasterised: one valid polygon at least, or run lengths that fill
    the size they state.
    """
    if isinstance(segmentation, list):
        return bool(valid_polygons(segmentation))
    if not isinstance(segmentation, dict):
        return False
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        return False
    runs: np.ndarray | None = None
    if isinstance(counts, list) and all(isinstance(run, int) for run in counts):
        runs = np.asarray(counts, np.int64)
    elif isinstance(counts, (str, bytes)):
        runs = decompress_runs(counts.encode("utf-8") if isinstance(counts, str) else counts)
    # pycocotools fills what the runs leave out with whatever the memory holds
    return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == size[0] * size[1]


def decompress_runs(text: bytes) -> np.ndarray | None:
    """Decode the run lengths of a compressed COCO RLE.

    Every character carries five bits, lowest first, bit 5 says that more follow, the last one's bit 4 is the sign;
    from the fourth number on it is the difference to the last but one.

    Returns:
        int64 [number of runs], or None where the text is no such encoding.
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
        segmentation: list of polygons (x, y, x, y, …), invalid ones among them are left out; or run lengths, a
            dict with ``size`` [h, w] and ``counts``, a list (uncompressed) or a string (compressed).

    Returns:
        uint8 [height, width] of 0 and 1.

    Raises:
        ValueError: nothing valid to draw, or run lengths of another size.
    """
    if not is_valid_segmentation(segmentation):
        raise ValueError("neither valid polygons nor run lengths")
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(valid_polygons(segmentation), height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths for {segmentation['size']} (h, w), the image is {[height, width]}")
        rle = segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    return np.ascontiguousarray(coco_mask.decode(rle), np.uint8)


def paint_labels(
    masks: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray, background: int | np.ndarray
) -> np.ndarray:
    """Make a label map from bitmaps: larger objects first, so that smaller ones end on top (equal: the later one).

    Crowd regions are painted before all others, as ignore: whatever is outlined inside a crowd keeps its label.

    Args:
        masks: uint8 [G, h, w]; G may be 0.
        labels: [G] label of each bitmap, below 255.
        is_crowd: [G].
        background: label of all other pixels, one or a map [h, w]; 255 = ignore.

    Returns:
        uint8 [h, w].
    """
    painted = np.array(np.broadcast_to(background, masks.shape[1:]), np.uint8)
    areas = masks.reshape(len(masks), -1).sum(axis=1, dtype=np.int64) if len(masks) else np.zeros(0, np.int64)
    for index in np.lexsort((-areas, is_crowd == 0)):
        painted[masks[index] > 0] = IGNORE if is_crowd[index] else labels[index]
    return painted
