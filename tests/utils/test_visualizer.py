"""Pictures: what is drawn where."""

from __future__ import annotations

import numpy as np

from ppdet.utils.visualizer import draw_detections, instance_colour


def test_masks_boxes_and_labels_are_drawn() -> None:
    image = np.full((100, 120, 3), 100, np.uint8)
    rows = np.array([[0, 0.9, 20, 40, 60, 80]], np.float32)
    masks = np.zeros((1, 28, 28), np.float32)
    masks[:, :, :14] = 1.0  # left half
    picture = draw_detections(image, rows, masks, ["cat"], alpha=0.5)
    assert (image == 100).all()  # the original stays
    colour = np.array(instance_colour(0))
    np.testing.assert_allclose(picture[60, 30], (100 + colour) / 2, atol=1)
    np.testing.assert_array_equal(picture[60, 50], [100, 100, 100])
    np.testing.assert_allclose(picture[60, 20], colour, atol=2)  # the left edge of the box, antialiased
    assert (picture[25:40, 20:60] != 100).any()  # the label stands above the box
    np.testing.assert_array_equal(picture[:20], 100)


def test_label_stays_inside_of_the_picture() -> None:
    image = np.zeros((40, 200, 3), np.uint8)
    rows = np.array([[0, 0.5, 190, -3, 260, 90]], np.float32)
    picture = draw_detections(image, rows, None, ["a rather long class name"])
    assert (picture[:20, 10:100].sum(axis=2) > 0).any()


def test_nothing_to_draw() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    picture = draw_detections(image, np.zeros((0, 6), np.float32), np.zeros((0, 28, 28), np.float32), ["cat"])
    assert not picture.any()


def test_neighbouring_colours_differ() -> None:
    colours = np.array([instance_colour(i) for i in range(20)], int)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 150
