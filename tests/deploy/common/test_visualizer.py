"""Pictures: what is drawn where."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from deploy.common import lettering, visualizer
from deploy.common.visualizer import draw_detections, instance_colour
from tests.deploy.box_detections import box_masks


def draw_rows(image: np.ndarray, rows: np.ndarray, masks: np.ndarray | None, *more: Any, **options: Any) -> np.ndarray:
    """Draw detections given as rows [n, 6] and masks [n, s, s] in their boxes."""
    found = None if masks is None else box_masks(masks, rows)
    return draw_detections(image, rows[:, 0], rows[:, 1], rows[:, 2:], found, *more, **options)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, int, int, int], tuple[int, int]]]:
    """What is written on a picture: the text, its plate (x1, y1, x2, y2) and where its letters start (x, foot)."""
    texts: list[tuple[str, tuple[int, int, int, int], tuple[int, int]]] = []
    write_label, write_letters = visualizer._write, lettering.write

    def note(canvas: np.ndarray, text: Any, x: int, y: int, colour: tuple[int, int, int]) -> None:
        texts.append((text.text, (x, y, x + text.width, y + text.height), (0, 0)))
        write_label(canvas, text, x, y, colour)

    def note_letters(canvas: np.ndarray, text: str, x: int, foot: int, scale: float, ink: Any) -> None:
        plate = texts[-1][1]
        assert plate[0] <= x and x + lettering.measure(text, scale)[0] <= plate[2] and foot <= plate[3]
        texts[-1] = (texts[-1][0], plate, (x, foot))
        write_letters(canvas, text, x, foot, scale, ink)

    monkeypatch.setattr(visualizer, "_write", note)
    monkeypatch.setattr(lettering, "write", note_letters)
    return texts


def test_masks_boxes_and_labels_are_drawn() -> None:
    image = np.full((100, 120, 3), 100, np.uint8)
    rows = np.array([[0, 0.9, 20, 40, 60, 80]], np.float32)
    masks = np.zeros((1, 28, 28), np.float32)
    masks[:, :, :14] = 1.0  # left half
    picture = draw_rows(image, rows, masks, ["cat"], alpha=0.5)
    assert (image == 100).all()  # the original stays
    colour = np.array(instance_colour(0))
    np.testing.assert_allclose(picture[60, 30], (100 + colour) / 2, atol=1)
    np.testing.assert_array_equal(picture[60, 50], [100, 100, 100])
    for y, x in ((60, 20), (60, 60), (40, 50), (80, 50)):
        np.testing.assert_array_equal(picture[y, x], colour)  # the box
    np.testing.assert_allclose(picture[60, 39], colour, atol=40)  # the outline along the middle, antialiased
    assert (picture[25:40, 20:60] != 100).any()  # the label stands above the box
    np.testing.assert_array_equal(picture[:20], 100)


def test_small_objects_lie_on_large_ones_whatever_their_scores() -> None:
    image = np.full((100, 100, 3), 50, np.uint8)
    rows = np.array([[0, 0.9, 5, 30, 95, 95], [0, 0.3, 40, 60, 60, 80]], np.float32)
    picture = draw_rows(image, rows, np.ones((2, 28, 28), np.float32), ["a"], alpha=0.5)
    # The small one's pixels have its colour alone, not a mixture with the large one's.
    np.testing.assert_allclose(picture[70, 50], (50 + np.array(instance_colour(1))) / 2, atol=1)
    np.testing.assert_allclose(picture[85, 20], (50 + np.array(instance_colour(0))) / 2, atol=1)


def test_a_box_along_the_border_is_visible() -> None:
    rows = np.array([[0, 0.9, -20, 30, 80, 60], [0, 0.8, 0, 0, 80, 60]], np.float32)
    picture = draw_rows(np.zeros((60, 80, 3), np.uint8), rows, None, ["a"])
    for y, x in ((45, 79), (59, 40), (45, 0)):
        assert tuple(picture[y, x].tolist()) == instance_colour(0)


@pytest.mark.parametrize("size", [(20, 1000), (1000, 20), (16, 16), (1, 1), (150, 200), (889, 1333), (3000, 4000)])
def test_no_label_is_cut_off(size: tuple[int, int], written: list[Any]) -> None:
    height, width = size
    rng = np.random.default_rng(8)
    first, second = rng.uniform(-0.2, 1.2, (2, 12, 2)) * [width, height]
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
    rows = np.concatenate([rng.integers(0, 3, (12, 1)), rng.random((12, 1)), boxes], axis=1).astype(np.float32)
    picture = draw_rows(np.zeros((*size, 3), np.uint8), rows, None, ["cat", "traffic light", "x" * 60])
    assert picture.shape == (*size, 3) and len(written) == 12
    for _, (x1, y1, x2, y2), (_, foot) in written:
        assert x1 >= 0 and y1 >= 0 and foot <= y2
        # Below 12 pixels nothing can be read anyway.
        if min(size) >= 16:
            assert x2 <= width and y2 <= height


def test_letters_grow_with_the_picture(written: list[Any]) -> None:
    rows = np.array([[0, 0.5, 10, 50, 60, 100]], np.float32)
    heights = []
    for size in ((150, 200), (889, 1333), (3000, 4000)):
        draw_rows(np.zeros((*size, 3), np.uint8), rows, None, ["cat"])
        plate = written[-1][1]
        heights.append(plate[3] - plate[1])
    assert heights[0] >= 11 and 1.5 * heights[0] < heights[1] < heights[2] / 2
    assert heights[0] < 150 / 8 and heights[2] < 3000 / 20


@pytest.mark.parametrize(
    ("size", "name", "text"),
    [
        ((600, 900), "x" * 200, r"x{40,90}\.\. 0\.50"),
        ((600, 900), "a long but not an endless name of a class", "a long but not an endless name of a class 0.50"),
        ((3000, 4000), "word " * 40, r"(word ){5,}(w|wo|wor|word)?\.\. 0\.50"),
        ((64, 64), "traffic light", r"traffic?.{0,5}\.\. 0\.50"),
        ((64, 26), "cat", "cat"),
        ((200, 30), "umbrella", r"um.{0,5}"),
        ((200, 6), "umbrella", "u"),
    ],
)
def test_names_that_are_too_long_leave_the_score(
    size: tuple[int, int], name: str, text: str, written: list[Any]
) -> None:
    rows = np.array([[0, 0.5, 1, 1, 5, 5]], np.float32)
    draw_rows(np.zeros((*size, 3), np.uint8), rows, None, [name])
    assert re.fullmatch(text, written[0][0]), written[0][0]


def test_a_label_beyond_the_names_has_its_number(written: list[Any]) -> None:
    draw_rows(np.zeros((200, 300, 3), np.uint8), np.array([[7, 0.5, 30, 50, 60, 100]], np.float32), None, ["a"])
    assert written[0][0] == "class 7 0.50"


def test_nothing_to_draw() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    nothing = np.zeros((0, 6), np.float32)
    assert not draw_rows(image, nothing, np.zeros((0, 28, 28), np.float32), ["cat"]).any()
    broken = np.array([[0, 0.9, np.nan, 0, 5, 5], [0, np.nan, 1, 1, 5, 5]], np.float32)
    assert not draw_rows(image, broken, np.ones((2, 28, 28), np.float32), ["cat"]).any()


def test_neighbouring_colours_differ() -> None:
    colours = np.array([instance_colour(i) for i in range(36)], int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 150
    assert len({tuple(colour) for colour in colours.tolist()}) == 36
    assert instance_colour(36) == instance_colour(0)
