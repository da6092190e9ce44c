"""Placement of the labels of detections in an image (NumPy only)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["place_label"]

_CLASH = 6.0
"""Cost of a label that is completely covered by other labels, which makes both unreadable."""
_HIDE = 1.5
"""Cost of hiding another object completely."""
_HIDE_OWN = 1.2
"""Cost of hiding the object of the label itself."""
_FARTHEST_LINES = 6
"""Maximum distance of a label from its box in label heights."""
_MOVED = 0.35
"""Cost per label height by which a label is moved to be inside of the image."""


def place_label(
    boxes: np.ndarray,
    index: int,
    size: tuple[int, int],
    plates: Sequence[tuple[float, float, float, float]],
    picture: tuple[int, int],
) -> tuple[int, int]:
    """Choose the position of a label near its box such that it avoids other labels and hides little of the objects.

    Args:
        boxes: boxes of all objects inside of the image, [n, 4] xyxy in pixels.
        index: index of the box of the label.
        size: (width, height) of the label; if possible, not larger than the image.
        plates: xyxy of the labels that have already been placed.
        picture: (height, width) of the image.

    Returns:
        (x, y) of the upper left pixel of the label, inside of the image.
    """
    width, height = size
    candidates = _candidates(boxes[index], width, height)
    room = np.array([max(0, picture[1] - width), max(0, picture[0] - height)], np.float64)
    corners = np.clip(candidates.round(), 0, room)
    labels = np.concatenate([corners, corners + np.array([width, height])], axis=1)
    cost = 0.04 * np.arange(len(labels)) + _MOVED * np.abs(corners - candidates).max(axis=1) / height
    cost += _CLASH * _overlap(labels, np.array(plates, np.float64).reshape(-1, 4)).sum(axis=1) / (width * height)
    areas = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
    hidden = _overlap(labels, boxes) / areas
    cost += _HIDE_OWN * hidden[:, index]
    hidden[:, index] = 0.0
    cost += _HIDE * hidden.sum(axis=1)
    x, y = corners[int(cost.argmin())].astype(int).tolist()
    return x, y


def _candidates(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return candidates for the upper left corner of a label, [k, 2], in order of preference."""
    x1, y1, x2, y2 = box.tolist()
    return np.array(
        [
            (x1, y1 - height),  # above, left and right
            (x2 - width, y1 - height),
            (x1, y1),  # inside, in the upper corners
            (x2 - width, y1),
            (x1, y2),  # below
            (x2 - width, y2),
            (x2, y1),  # next to the box
            (x1 - width, y1),
            (x2, y2 - height),
            (x1 - width, y2 - height),
            (x1, y2 - height),  # inside, in the lower corners
            (x2 - width, y2 - height),
            (x1, y1 + height),  # inside, a line further down
            (x1, y1 + 2 * height),
            ((x1 + x2 - width) / 2, (y1 + y2 - height) / 2),
            # Further up and down, for crowded images: labels away from their boxes can be identified by their colour.
            *((x1, y1 - lines * height) for lines in range(2, _FARTHEST_LINES + 1)),
            *((x1, y2 + lines * height) for lines in range(1, _FARTHEST_LINES)),
        ],
        np.float64,
    )


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection areas [n, m] of boxes [n, 4] and [m, 4]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]
