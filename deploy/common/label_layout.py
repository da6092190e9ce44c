"""Where the labels of detections go on a picture (NumPy alone)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["place_label"]

_CLASH = 6.0
"""Cost of a label that lies wholly on other labels, which makes both unreadable."""
_HIDE = 1.5
"""Cost of hiding a whole other object."""
_HIDE_OWN = 1.2
"""Cost of hiding the object that the label names."""
_FARTHEST_LINES = 6
"""How many label heights a label may go away from its box."""
_MOVED = 0.35
"""Cost of each label height between the wanted place and the one inside of the picture."""


def place_label(
    boxes: np.ndarray,
    place: int,
    size: tuple[int, int],
    plates: Sequence[tuple[float, float, float, float]],
    picture: tuple[int, int],
) -> tuple[int, int]:
    """Choose a label's place at its box: off other labels, hiding as little as possible of the objects.

    Args:
        boxes: [n, 4] xyxy pixels of all objects, inside of the picture.
        place: which of them the label belongs to.
        size: (width, height) of the label, no larger than the picture where that is possible.
        plates: xyxy of the labels that are placed already.
        picture: (height, width).

    Returns:
        (x, y) of the label's upper left pixel, inside of the picture.
    """
    width, height = size
    wanted = _candidates(boxes[place], width, height)
    room = np.array([max(0, picture[1] - width), max(0, picture[0] - height)], np.float64)
    corners = np.clip(wanted.round(), 0, room)
    labels = np.concatenate([corners, corners + np.array([width, height])], axis=1)
    cost = 0.04 * np.arange(len(labels)) + _MOVED * np.abs(corners - wanted).max(axis=1) / height
    cost += _CLASH * _overlap(labels, np.array(plates, np.float64).reshape(-1, 4)).sum(axis=1) / (width * height)
    areas = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
    hidden = _overlap(labels, boxes) / areas
    cost += _HIDE_OWN * hidden[:, place]
    hidden[:, place] = 0.0
    cost += _HIDE * hidden.sum(axis=1)
    x, y = corners[int(cost.argmin())].astype(int).tolist()
    return x, y


def _candidates(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Upper left corners [k, 2] of a label at a box, liked best first."""
    x1, y1, x2, y2 = box.tolist()
    return np.array(
        [
            (x1, y1 - height),  # above, left and right
            (x2 - width, y1 - height),
            (x1, y1),  # inside, in the upper corners
            (x2 - width, y1),
            (x1, y2),  # below
            (x2 - width, y2),
            (x2, y1),  # beside
            (x1 - width, y1),
            (x2, y2 - height),
            (x1 - width, y2 - height),
            (x1, y2 - height),  # inside, in the lower corners
            (x2 - width, y2 - height),
            (x1, y1 + height),  # inside, a line further down
            (x1, y1 + 2 * height),
            ((x1 + x2 - width) / 2, (y1 + y2 - height) / 2),
            # Lines further up and down, for crowds: a label away from its box is found by its colour.
            *((x1, y1 - lines * height) for lines in range(2, _FARTHEST_LINES + 1)),
            *((x1, y2 + lines * height) for lines in range(1, _FARTHEST_LINES)),
        ],
        np.float64,
    )


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas [n, m] that boxes [n, 4] and [m, 4] share."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]
