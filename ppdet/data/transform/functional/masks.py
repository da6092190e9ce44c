"""COCO segmentations to bitmaps, bitmaps to a label map (pycocotools, NumPy)."""

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
"""A polygon with a coordinate beyond this is no polygon."""

_FREE_LENGTH, _LENGTH_SHARE = 100_000, 100
"""Rasterising takes memory for every pixel of an outline's edges, on the image or not: the edges of an object may be
this many pixels long, and this many times longer than height and width of its image together."""

_MOST_MASK_BYTES = 2**34
"""Bitmaps of one image that are laid out together; more do not fit beside the rest of a training."""


def valid_polygons(polygons: Sequence[Any], size: Sequence[int] = (0, 0)) -> list[list[float]]:
    """Return those polygons which have at least three points, an even number of coordinates, all finite.

    Args:
        polygons: of one object.
        size: (h, w) of its image, (0, 0) where it is not known. No polygon is valid if their edges together are so long
            that rasterising them would take gigabytes.
    """
    valid, longest = [], 0.0
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):  # text, lists within the list, a number of 400 digits
            continue
        if points.ndim == 1 and points.size >= 6 and points.size % 2 == 0:
            farthest = np.abs(points).max()
            if farthest < _FARTHEST:
                valid.append(points.tolist())
                longest += farthest * points.size  # no edge is longer than twice the farthest coordinate
    allowed = _FREE_LENGTH + _LENGTH_SHARE * (size[0] + size[1]) if min(size) > 0 else _FARTHEST
    if longest > allowed and sum(map(_edge_length, valid)) > allowed:
        return []
    return valid


def _edge_length(polygon: Sequence[float]) -> float:
    """Pixels of the edges of a closed polygon (x, y, x, y, …), a diagonal one counting its longer side."""
    corners = np.reshape(polygon, (-1, 2))
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def is_valid_segmentation(segmentation: Any, size: Sequence[int] = (0, 0)) -> bool:
    """Return whether a COCO segmentation can be rasterised: one valid polygon at least, or run lengths that fill
    the size they state.

    Args:
        segmentation: of one object.
        size: (h, w) of its image, (0, 0) where it is not known; run lengths may state another one.
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
    # pycocotools fills what the runs leave out with whatever the memory holds
    return runs is not None and bool((runs >= 0).all() and (runs <= pixels).all()) and int(runs.sum()) == pixels


def stated_size(segmentation: Any) -> tuple[int, int] | None:
    """Return the (h, w) that run lengths state; None for polygons, and for anything that is no size of an image."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        return None
    return (size[0], size[1]) if size[0] * size[1] < 2**31 else None


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
    stated = stated_size(segmentation)
    if stated is not None and stated != (height, width):
        raise ValueError(f"run lengths for {list(stated)} (h, w), the image is {[height, width]}")
    if not is_valid_segmentation(segmentation, (height, width)):
        raise ValueError("neither valid polygons nor run lengths")
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
        ValueError: one cannot be drawn, with its place among them; or there are too many for an image of this size.
    """
    if len(segmentations) * height * width > _MOST_MASK_BYTES:
        raise ValueError(
            f"{len(segmentations)} objects of {width} x {height} pixels (width x height) need more than "
            f"{_MOST_MASK_BYTES // 2**30} GB for their masks; cut the image into tiles"
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
