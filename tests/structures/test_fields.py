"""Fields of a sample: what moves, what leaves with its object."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet.data.transform.spatial import Affine, HorizontalFlip, Place, Scale
from ppdet.structures.fields import Boxes, ImageField, Keypoints, LabelMap, Masks, ObjectField, mirrored_keypoints
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

NAMES = ("nose", "left_eye", "right_eye")


def points(*rows: tuple[float, float, float]) -> Keypoints:
    return Keypoints(np.array([rows], np.float32), mirrored_keypoints(NAMES))


def sample_of(height: int = 4, width: int = 6) -> Sample:
    """Two objects: the left upper and the right lower quarter."""
    y, x = np.mgrid[:height, :width]
    half = (height // 2, width // 2)
    masks = np.zeros((2, height, width), np.uint8)
    masks[0, : half[0], : half[1]] = masks[1, half[0] :, half[1] :] = 1
    return Sample(
        "a.jpg",
        1,
        (height, width),
        image=np.stack([x, y, x + y], 2).astype(np.uint8),
        boxes=np.array([[0, 0, half[1], half[0]], [half[1], half[0], width, height]], np.float32),
        labels=np.array([3, 4]),
        is_crowd=np.zeros(2, np.uint8),
        masks=masks,
        segmentations=["first", "second"],
        semantic=(x + 10 * y).astype(np.uint8),
        im_shape=(height, width),
        extra={
            "gt_keypoint": Keypoints(
                np.array([[[1, 1, 2], [0, 0, 1], [2, 0, 2]], [[4, 3, 2], [3, 2, 2], [0, 0, 0]]], np.float32),
                mirrored_keypoints(NAMES),
            ),
            "gt_identity": ObjectField(np.array([70, 80])),
            "prompt": ImageField(np.array([0.5, 1.5], np.float32)),
        },
    )


def test_pairs_follow_the_names() -> None:
    assert mirrored_keypoints(NAMES) == (0, 2, 1)
    assert mirrored_keypoints(["Left_Ankle", "upright", "left_knee", "right_ankle"]) == (3, 1, 2, 0)
    assert mirrored_keypoints([]) == ()


def test_flip_exchanges_left_and_right() -> None:
    flipped = points((1, 1, 2), (0, 0, 1), (0, 0, 0)).transformed(HorizontalFlip((4, 6)))
    assert flipped.array.tolist() == [[[4, 1, 2], [0, 0, 0], [5, 0, 1]]], "pixel 0 of 6 is mirrored to pixel 5"
    plain = Keypoints(np.array([[[1, 1, 2], [0, 0, 1]]], np.float32)).transformed(HorizontalFlip((4, 6)))
    assert plain.array.tolist() == [[[4, 1, 2], [5, 0, 1]]], "no pairs"


def test_keypoints_lie_on_their_pixels_after_resizing() -> None:
    resized = points((0, 0, 2), (5, 3, 1), (0, 0, 0)).transformed(Scale((4, 6), (8, 18)))
    assert resized.array.tolist() == [[[1, 0.5, 2], [16, 6.5, 1], [0, 0, 0]]], "centre of pixel 0 is that of pixels 0-2"


def test_keypoints_that_leave_the_image_are_not_labelled() -> None:
    cropped = points((1, 1, 2), (3, 2, 1), (5, 3, 2)).transformed(Place.crop(1, 2, 2, 3))
    assert cropped.array.tolist() == [[[0, 0, 0], [1, 1, 1], [0, 0, 0]]]


def test_place_moves_everything() -> None:
    sample = sample_of()
    sample.transform(Place((8, 10), (3, 2), (7, 8, 9)))
    assert sample.im_shape == (8, 10) and sample.scale_factor == (1.0, 1.0)
    assert sample.pixels()[0, 0].tolist() == [7, 8, 9] and sample.pixels()[3 + 1, 2 + 5].tolist() == [5, 1, 6]
    assert sample.boxes.tolist() == [[2, 3, 5, 5], [5, 5, 8, 7]]
    assert sample.masks is not None and sample.masks.sum(axis=(1, 2)).tolist() == [6, 6]
    assert sample.masks[1, 5:7, 5:8].all()
    assert sample.semantic is not None and sample.semantic[0, 0] == 255 and sample.semantic[6, 7] == 35
    assert sample.extra["gt_keypoint"].array[1].tolist() == [[6, 6, 2], [5, 5, 2], [0, 0, 0]]
    assert sample.extra["gt_identity"].array.tolist() == [70, 80]
    assert sample.extra["prompt"].array.tolist() == [0.5, 1.5]


def test_crop_cuts_everything() -> None:
    sample = sample_of()
    sample.transform(Place.crop(1, 2, 3, 6))
    assert sample.pixels().shape == (3, 6, 3) and sample.pixels()[0, 0].tolist() == [2, 1, 3]
    assert not sample.pixels()[:, 4:].any(), "beyond the image"
    assert sample.boxes.tolist() == [[0, 0, 1, 1], [1, 1, 4, 3]]
    assert sample.masks is not None and sample.masks.sum(axis=(1, 2)).tolist() == [1, 6]
    assert sample.semantic is not None and sample.semantic[0].tolist() == [12, 13, 14, 15, 255, 255]
    far = sample_of()
    far.transform(Place.crop(50, 0, 3, 3))
    assert not far.pixels().any() and far.masks is not None and not far.masks.any()


def test_affine_agrees_with_flip_and_place() -> None:
    for same, matrix in (
        (HorizontalFlip((4, 6)), [[-1, 0, 5], [0, 1, 0]]),
        (Place((7, 9), (2, 1)), [[1, 0, 1], [0, 1, 2]]),
    ):
        expected, found = sample_of(), sample_of()
        expected.transform(same)
        found.transform(Affine(same.size, np.array(matrix)))
        np.testing.assert_array_equal(found.pixels(), expected.pixels())
        for key, field in expected.fields().items():
            np.testing.assert_array_equal(found.fields()[key].array, field.array, err_msg=key)


def test_affine_turns() -> None:
    quarter = Affine((6, 4), np.array([[0, -1, 3], [1, 0, 0]]))  # (x, y) -> (3 - y, x)
    assert not quarter.mirrors
    assert Boxes(np.array([[0, 0, 3, 2]], np.float32)).transformed(quarter).array.tolist() == [[2, 0, 4, 3]]
    assert points((1, 0, 2), (0, 3, 1), (0, 0, 0)).transformed(quarter).array.tolist() == [
        [[3, 1, 2], [0, 0, 1], [0, 0, 0]]
    ]
    plane = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    np.testing.assert_array_equal(Masks(plane).transformed(quarter).array[0], np.rot90(plane[0], -1))
    shifted = LabelMap(plane[0]).transformed(Affine((4, 6), np.array([[1, 0, 4], [0, 1, 0]]))).array
    assert shifted[0].tolist() == [255, 255, 255, 255, 0, 1]


def test_objects_leave_every_field_at_once() -> None:
    sample = sample_of()
    sample.select(np.array([False, True]))
    assert sample.boxes.tolist() == [[3, 2, 6, 4]] and sample.labels.tolist() == [4] and len(sample.is_crowd) == 1
    assert sample.masks is not None and sample.masks.shape == (1, 4, 6) and sample.segmentations == ["second"]
    assert sample.extra["gt_keypoint"].array.shape == (1, 3, 3)
    assert sample.extra["gt_identity"].array.tolist() == [80]
    assert sample.semantic is not None and sample.extra["prompt"].array.tolist() == [0.5, 1.5]
    sample.select(np.array([False]))
    assert sample.boxes.shape == (0, 4) and sample.extra["gt_keypoint"].array.shape == (0, 3, 3)


def test_a_field_with_a_row_too_many_is_named() -> None:
    sample = sample_of()
    sample.extra["gt_identity"] = ObjectField(np.array([1, 2, 3]))
    with pytest.raises(UserError, match=r"'gt_identity' of a\.jpg has 3 rows, but the image has 2 objects"):
        sample.select(np.array([True, True]))
