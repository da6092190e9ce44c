"""Named arrays of a batch become detections of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploy.common.errors import UserError
from deploy.common.instance_masks import MASK_FRAMES
from deploy.common.model_outputs import check_outputs, mask_frame, split_outputs

SIZES = [(20, 30), (40, 10), (8, 8)]
COUNTS = [2, 0, 1]
NAMES, IDS = ["cat", "dog"], [4, 9]


def batch(frame: str = "box", has_boxes: bool = True, **more: Any) -> dict[str, np.ndarray]:
    """Outputs for three images with two, no and one detection."""
    rows = np.array([[1, 0.9, 2, 3, 12, 13], [0, 0.8, 0, 0, 5, 5], [1, 0.7, 1, 1, 7, 7]], np.float32)
    outputs = {
        "bbox" if has_boxes else "instances": rows if has_boxes else rows[:, :2],
        "bbox_num": np.array(COUNTS, np.int32),
        "mask": np.stack([np.full((4, 4), value, np.float32) for value in (0.25, 0.5, 0.75)]),
    }
    if frame == "image":
        outputs["mask_extent"] = np.array([[20, 30], [40, 10], [16, 16]], np.float32)
    if frame == "affine":
        outputs["mask_matrix"] = np.array([[[scale, 0, 0], [0, scale, 0]] for scale in (1, 2, 3)], np.float32)
    return {**outputs, **more}


@pytest.mark.parametrize("frame", MASK_FRAMES)
@pytest.mark.parametrize("has_boxes", [True, False])
def test_each_image_has_its_own(frame: str, has_boxes: bool) -> None:
    outputs = batch(frame, has_boxes or frame == "box")
    assert mask_frame(outputs) == frame
    check_outputs(outputs, 3, 2, "model.json")
    found = split_outputs(outputs, np.array(SIZES), NAMES, IDS, 0.3)
    assert [len(image) for image in found] == COUNTS and [image.size for image in found] == SIZES
    assert found[0].labels.tolist() == [1, 0] and found[2].labels.tolist() == [1]
    assert found[0].labels.dtype == np.int64 and found[2].scores.tolist() == pytest.approx([0.7])
    for image, values in zip(found, ([0.25, 0.5], [], [0.75])):
        assert image.masks is not None and image.masks.frame == frame and image.mask_threshold == 0.3
        assert image.masks.values[:, 0, 0].tolist() == values
        assert (image.boxes is None) == ("instances" in outputs)
    if frame == "image":
        assert found[2].masks is not None and found[2].masks.extent == (16.0, 16.0)
    if frame == "affine":
        assert found[2].masks is not None and found[2].masks.matrices is not None
        assert found[2].masks.matrices[0].tolist() == [[3, 0, 0], [0, 3, 0]]


def test_mask_scores_decide_what_is_shown_but_not_the_boxes() -> None:
    found = split_outputs(batch(mask_score=np.array([0.3, 0.6, 0.5], np.float32)), SIZES, NAMES, IDS)[0]
    assert found.display_scores.tolist() == pytest.approx([0.3, 0.6])
    assert found.above(0.5).scores.tolist() == pytest.approx([0.8])
    boxes, masks = found.to_coco(1)
    assert [row["score"] for row in boxes] == pytest.approx([0.9, 0.8])
    assert [row["score"] for row in masks] == pytest.approx([0.3, 0.6])


def test_without_masks() -> None:
    outputs = {name: array for name, array in batch().items() if name != "mask"}
    check_outputs(outputs, 3, 2, "model.json")
    found = split_outputs(outputs, SIZES, NAMES, IDS)
    assert [image.masks for image in found] == [None] * 3 and found[0].boxes is not None
    assert found[0].boxes.tolist() == [[2, 3, 12, 13], [0, 0, 5, 5]]


@pytest.mark.parametrize("frame", MASK_FRAMES)
def test_nothing_found_at_all(frame: str) -> None:
    outputs = {
        name: array if name == "mask_extent" else array[:0] for name, array in batch(frame, frame == "box").items()
    }
    outputs["bbox_num"] = np.zeros(3, np.int32)
    check_outputs(outputs, 3, 2, "model.json")
    for image in split_outputs(outputs, SIZES, NAMES, IDS):
        assert len(image) == 0 and image.to_coco(1) == ([], []) and image.bounding_boxes.shape == (0, 4)
        assert image.rows.shape == (0, 6) and len(image.above(0.5)) == 0
        picture = np.full((*image.size, 3), 7, np.uint8)
        np.testing.assert_array_equal(image.draw(picture), picture)


ONES = np.ones(3, np.float32)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"bbox": None}, "instead of bbox [N, 6] and bbox_num [3]"),
    ({"bbox": np.zeros((3, 5), np.float32)}, "bbox [3, 5]"),
    ({"bbox": np.zeros((3, 6), np.int64)}, "instead of bbox [N, 6]"),
    ({"bbox_num": None}, "instead of bbox [N, 6] and bbox_num [3]"),
    ({"bbox_num": np.array([2, 1])}, "bbox_num [3]"),
    ({"bbox_num": ONES}, "bbox_num [3]"),
    ({"bbox_num": np.array([2, 2, 0])}, "3 detections, but bbox_num is [2, 2, 0]"),
    ({"bbox_num": np.array([4, -1, 0])}, "bbox_num is [4, -1, 0]"),
    ({"bbox": np.full((3, 6), 2, np.float32)}, "class 2, but there are 2 class names"),
    ({"bbox": np.full((3, 6), -1, np.float32)}, "class -1, but"),
    ({"bbox": np.full((3, 6), np.nan, np.float32)}, "class nan, but"),
    ({"instances": np.zeros((3, 6), np.float32)}, "instead of instances [N, 2]"),
    ({"mask": np.zeros((2, 4, 4), np.float32)}, "mask float32 [2, 4, 4] instead of float32 [3, any, any]"),
    ({"mask": np.zeros((3, 4, 4), bool)}, "mask bool [3, 4, 4]"),
    ({"mask": np.zeros((3, 0, 4), np.float32)}, "mask float32 [3, 0, 4]"),
    ({"mask_extent": np.zeros((2, 2), np.float32)}, "mask_extent float32 [2, 2] instead of float32 [3, 2]"),
    ({"mask_matrix": np.zeros((3, 3, 3), np.float32)}, "mask_matrix float32 [3, 3, 3] instead of float32 [3, 2, 3]"),
    ({"mask_score": np.ones((3, 1), np.float32)}, "mask_score float32 [3, 1] instead of float32 [3]"),
]


@pytest.mark.parametrize(("change", "culprit"), WRONG, ids=[culprit for _, culprit in WRONG])
def test_arrays_that_are_not_what_their_names_promise(change: dict[str, Any], culprit: str) -> None:
    outputs = {name: array for name, array in batch(**change).items() if array is not None}
    with pytest.raises(UserError) as caught:
        check_outputs(outputs, 3, 2, "model.json")
    message = str(caught.value)
    assert message.startswith("model.json returns ") and culprit in message and "\n" not in message
