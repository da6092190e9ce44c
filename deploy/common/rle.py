"""COCO's run-length encoding of bitmaps, byte for byte pycocotools' (NumPy alone).

An image is read column by column; its runs of 0 and 1 take turns, beginning with 0. A bitmap that is known to be empty
outside of a small part is encoded from that part: the whole image is never laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["compress", "encode", "run_lengths"]


def run_lengths(part: np.ndarray, corner: Sequence[int], height: int, width: int) -> np.ndarray:
    """Lengths of the runs of an image that is 0 outside of one part.

    Args:
        part: [h, w] bool or 0 and 1, inside of the image; may be empty.
        corner: (y, x) of its upper left pixel on the image.
        height: of the image.
        width: of the image.

    Returns:
        int64 [runs], summing to height * width; the first run is of zeros and may be 0 long.
    """
    rows, columns = part.shape
    # Zeros above and below: in each column every object run then has a begin and an end.
    framed = np.zeros((columns, rows + 2), bool)
    framed[:, 1:-1] = part.T
    column, row = np.divmod(np.flatnonzero(framed[:, 1:] != framed[:, :-1]), rows + 1)
    edges = (column + int(corner[1])) * height + row + int(corner[0])
    # A run that reaches the bottom of a column continues at the top of the next one.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    whole = height * width
    if not (edges.size and edges[-1] == whole):
        edges = np.append(edges, whole)
    return np.diff(edges, prepend=0)


def compress(runs: np.ndarray) -> bytes:
    """Write run lengths as COCO's text.

    From the fourth run on the difference to the last but one is written. A number takes as many characters as its
    two's complement needs, five bits each, lowest first; bit 5 says that more follow; 48 is added to print.
    """
    left = runs.astype(np.int64)
    left[3:] -= runs[1:-2]
    characters: list[np.ndarray] = []
    used: list[np.ndarray] = []
    going = np.ones(len(left), bool)
    while going.any():
        low = left & 31
        left = left >> 5
        more = np.where(low & 16, left != -1, left != 0)
        characters.append((low | (more << 5)) + 48)
        used.append(going)
        going = going & more
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes()


def encode(part: np.ndarray, corner: Sequence[int], height: int, width: int) -> dict[str, Any]:
    """Encode an image that is 0 outside of one part, ready for JSON.

    Args:
        part: see :func:`run_lengths`.
        corner: see :func:`run_lengths`.
        height: of the image.
        width: of the image.

    Returns:
        ``size`` [height, width] and ``counts``, what pycocotools' ``encode`` gives for the whole bitmap.
    """
    counts = compress(run_lengths(part, corner, height, width)).decode("ascii")
    return {"size": [int(height), int(width)], "counts": counts}
