"""COCO segmentations to bitmaps, bitmaps to a label map (pycocotools, NumPy)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["IGNORE", "is_valid_segmentation", "paint_labels", "rasterize", "valid_polygons"]

IGNORE = 255
"""Label of pixels that the semantic loss leaves out."""

_FARTHEST = 1e6
"""A polygon with a coordinate beyond this is no polygon: rasterising it would take gigabytes."""


def valid_polygons(polygons: Sequence[Any]) -> list[list[float]]:
    """Return those polygons which have at least three points, an even number of coordinates, all finite."""
    return [
        list(polygon)
        for polygon in polygons
        if isinstance(polygon, (list, tuple))
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(
            isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < _FARTHEST for value in polygon
        )
    ]


def is_valid_segmentation(segmentation: Any) -> bool:
    """Return whether a COCO segmentation can be rasterised: one valid polygon at least, or a run-length dict."""
    if isinstance(segmentation, list):
        return bool(valid_polygons(segmentation))
    if not isinstance(segmentation, dict):
        return False
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        return False
    if isinstance(counts, list):
        return all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, (str, bytes))


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


def paint_labels(masks: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray, background: int) -> np.ndarray:
    """Make a label map from bitmaps: larger objects first, so that smaller ones end on top (equal: the later one).

    Crowd regions are painted before all others, as ignore: whatever is outlined inside a crowd keeps its label.

    Args:
        masks: uint8 [G, h, w]; G may be 0.
        labels: [G] label of each bitmap, below 255.
        is_crowd: [G].
        background: label of all other pixels; 255 = ignore.

    Returns:
        uint8 [h, w].
    """
    painted = np.full(masks.shape[1:], background, np.uint8)
    areas = masks.reshape(len(masks), -1).sum(axis=1, dtype=np.int64) if len(masks) else np.zeros(0, np.int64)
    for index in np.lexsort((-areas, is_crowd == 0)):
        painted[masks[index] > 0] = IGNORE if is_crowd[index] else labels[index]
    return painted
