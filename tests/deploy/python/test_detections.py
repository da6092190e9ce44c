"""Output formats of the detections of an image, for masks with known pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from deploy.python import Detections
from tests.deploy.box_detections import box_detections

SIZE = (40, 60)


def _mask(*, hole: bool = False, pieces: bool = False) -> np.ndarray:
    """Create mask probabilities of 28 x 28 cells: 1 on the object, 0 around it."""
    mask = np.zeros((28, 28), np.float32)
    mask[4:24, 6:20] = 1
    if hole:
        mask[10:16, 10:16] = 0
    if pieces:
        mask[12:15] = 0
    return mask


@pytest.fixture
def found() -> Detections:
    """A solid object (one mask cell per pixel), one with a hole, and one with two parts that exceeds the image."""
    rows = [[1, 0.9, 10, 4, 38, 32], [0, 0.8, 20, 10, 48, 38], [1, 0.3, 40, 20, 68, 48]]
    masks = np.stack([_mask(), _mask(hole=True), _mask(pieces=True)])
    return box_detections(np.array(rows, np.float32), masks, SIZE, ["cat", "dog"], [7, 9])


def test_columns(found: Detections) -> None:
    assert len(found) == 3
    assert found.labels.tolist() == [1, 0, 1] and found.labels.dtype == np.int64
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert found.boxes[2].tolist() == [40, 20, 68, 48]


def test_above_keeps_rows_and_masks_together(found: Detections) -> None:
    strong = found.above(float(found.scores[1]))
    assert len(strong) == 2 and strong.masks is not None and strong.masks.values.shape == (2, 28, 28)
    assert strong.size == SIZE and strong.class_names == ["cat", "dog"]
    assert len(found.above(0.95)) == 0


def test_bitmap_is_the_object(found: Detections) -> None:
    expected = np.zeros(SIZE, np.uint8)
    expected[8:28, 16:30] = 1
    np.testing.assert_array_equal(found.bitmap(0), expected)
    expected = np.zeros(SIZE, np.uint8)
    expected[14:34, 26:40] = 1
    expected[20:26, 30:36] = 0
    np.testing.assert_array_equal(found.bitmap(1), expected)
    assert found.bitmap(2).shape == SIZE and found.bitmap(2).dtype == np.uint8


def test_mask_threshold_decides_a_pixel(found: Detections) -> None:
    assert found.masks is not None
    faint = box_detections(found.rows, found.masks.values * np.float32(0.4), SIZE, found.class_names, [7, 9], 0.5)
    assert not faint.bitmap(0).any() and faint.polygons(0) == []
    assert faint.masks is not None
    lower = box_detections(faint.rows, faint.masks.values, SIZE, found.class_names, [7, 9], 0.3)
    assert lower.bitmap(0).sum() == 20 * 14


@pytest.mark.parametrize("index", [0, 1, 2])
def test_bitmap_rle_and_polygons_agree(found: Detections, index: int) -> None:
    bitmap = found.bitmap(index)
    np.testing.assert_array_equal(coco_mask.decode(found.rle(index)), bitmap)
    filled = np.zeros(SIZE, np.uint8)
    for outline in found.polygons(index):
        cv2.fillPoly(filled, [np.array(outline, np.int32).reshape(-1, 2)], 1)
    if index == 1:  # holes are omitted
        assert filled.sum() - bitmap.sum() == 36
        filled[20:26, 30:36] = 0
    np.testing.assert_array_equal(filled, bitmap)


def test_polygons_by_hand(found: Detections) -> None:
    (outline,) = found.polygons(0)
    assert sorted(zip(outline[::2], outline[1::2])) == [(16, 8), (16, 27), (29, 8), (29, 27)]
    assert len(found.polygons(2)) == 2
    assert all(isinstance(value, float) for value in outline)


def test_pieces_without_area_have_no_outline(found: Detections) -> None:
    dot = np.zeros((1, 28, 28), np.float32)
    dot[0, 5, 5] = 1
    tiny = box_detections(found.rows[:1], dot, SIZE, found.class_names, [7, 9])
    assert tiny.bitmap(0).sum() == 1 and tiny.polygons(0) == []


def test_coco_results(found: Detections) -> None:
    boxes, masks = found.to_coco(12)
    assert [(row["image_id"], row["category_id"]) for row in boxes] == [(12, 9), (12, 7), (12, 9)]
    assert boxes[0]["bbox"] == [10, 4, 28, 28] and boxes[0]["score"] == pytest.approx(0.9)
    assert [row["segmentation"] for row in masks] == [found.rle(index) for index in range(3)]


def test_draw_changes_a_copy_at_the_objects_alone(found: Detections) -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    picture = replace(found, size=(200, 300)).above(0.85).draw(image, alpha=0.5)
    assert (image == 90).all() and picture.shape == image.shape and picture.dtype == np.uint8
    assert (picture[15:20, 20:25] != 90).any(axis=-1).all()
    assert (picture[100:] == 90).all() and (picture[:, 200:] == 90).all()


def test_without_a_mask_branch() -> None:
    found = box_detections(np.array([[0, 0.5, 1, 2, 3, 4]], np.float32), None, SIZE, ["cat"], [1])
    assert len(found.above(0.1)) == 1 and found.to_coco(0)[1] == []
    assert found.draw(np.zeros((*SIZE, 3), np.uint8)).shape == (*SIZE, 3)
    for method in (found.bitmap, found.rle, found.polygons):
        with pytest.raises(ValueError, match="no masks"):
            method(0)


def test_none_found() -> None:
    found = box_detections(np.zeros((0, 6), np.float32), np.zeros((0, 28, 28), np.float32), SIZE, ["cat"], [1])
    assert len(found) == 0 and found.to_coco(3) == ([], []) and len(found.above(0.0)) == 0
    image = np.full((*SIZE, 3), 7, np.uint8)
    np.testing.assert_array_equal(found.draw(image), image)
