"""Label positions, verified by manual calculation."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.common.label_layout import place_label

Plates = list[tuple[float, float, float, float]]


def place(boxes: list[list[float]], index: int, size: tuple[int, int], plates: Plates) -> tuple[int, int]:
    return place_label(np.array(boxes, np.float64), index, size, plates, (100, 200))


def test_above_the_box_where_there_is_room() -> None:
    assert place([[50, 40, 120, 90]], 0, (40, 10), []) == (50, 30)


def test_inside_below_the_upper_edge_of_the_picture() -> None:
    # A label above would have to be moved by its whole height; inside, it hides 40 * 10 of 70 * 90 pixels.
    assert place([[50, 0, 120, 90]], 0, (40, 10), []) == (50, 0)


def test_aligned_to_the_right_edge_of_the_picture() -> None:
    assert place([[180, 40, 200, 90]], 0, (40, 10), []) == (160, 30)


def test_off_another_label() -> None:
    # The position above on the left is occupied, the one above on the right is free.
    assert place([[50, 40, 120, 90]], 0, (30, 10), [(40, 25, 85, 40)]) == (90, 30)


def test_off_a_small_object() -> None:
    # There are small objects above. The fifth candidate (0.04 * 4) below hides nothing; the third (0.04 * 2) inside
    # hides 30 * 10 of the 70 * 50 pixels of its own box (1.2 * 0.086): 0.16 < 0.183.
    boxes = [[50.0, 40, 120, 90], [50, 30, 80, 40], [90, 30, 120, 40]]
    assert place(boxes, 0, (30, 10), []) == (50, 90)


@pytest.mark.parametrize("picture", [(20, 1000), (1000, 20), (300, 300), (1, 1)])
def test_inside_of_the_picture_whatever_the_boxes(picture: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    height, width = picture
    first, second = rng.random((2, 40, 2)) * [width, height]
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    size = (min(width, 60), min(height, 14))
    plates: Plates = []
    for index in range(40):
        x, y = place_label(boxes, index, size, plates, picture)
        assert 0 <= x <= width - size[0] and 0 <= y <= height - size[1]
        plates.append((x, y, x + size[0], y + size[1]))


def test_labels_of_a_crowd_do_not_cover_each_other() -> None:
    boxes = np.array([[95.0 + i, 45, 105 + i, 55] for i in range(8)])
    plates: Plates = []
    for index in range(8):
        x, y = place_label(boxes, index, (40, 10), plates, (200, 200))
        assert all(x >= p[2] or p[0] >= x + 40 or y >= p[3] or p[1] >= y + 10 for p in plates)
        plates.append((x, y, x + 40, y + 10))
