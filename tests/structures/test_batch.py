"""What of a loader's dictionary reaches the model."""

from __future__ import annotations

import paddle

from ppdet.structures.batch import Batch


def inputs() -> dict[str, object]:
    return {
        "image": paddle.zeros([2, 3, 4, 6]),
        "im_shape": paddle.to_tensor([[4.0, 6.0], [4.0, 5.0]]),
        "im_id": paddle.to_tensor([7, 8]),
        "orig_size": paddle.to_tensor([[8, 12], [8, 10]]),
        "im_path": ["a.jpg", "b.jpg"],
        "gt_bbox": paddle.to_tensor([[[0.0, 0.0, 2.0, 2.0]], [[3.0, 1.0, 3.0, 2.0]]]),
        "gt_class": paddle.to_tensor([[1], [0]], dtype="int32"),
        "gt_valid": paddle.ones([2, 1]),
        "semantic": paddle.zeros([2, 4, 6], dtype="uint8"),
        "gt_keypoint": paddle.ones([2, 1, 17, 3]),
        "prompt": paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]]),
    }


def test_training() -> None:
    batch = Batch.from_inputs(inputs(), training=True)
    assert batch.targets is not None
    assert list(batch.extra) == ["prompt"] and batch.extra["prompt"].tolist() == [[1, 2], [3, 4]]
    assert list(batch.targets.extra) == ["gt_keypoint"]
    assert batch.targets.valid.tolist() == [[True], [False]], "a box without width trains nothing"
    assert batch.targets.semantic is not None and batch.targets.masks is None
    assert batch.scale_factor.tolist() == [[1, 1], [1, 1]]


def test_prediction_sees_inputs_and_no_ground_truth() -> None:
    batch = Batch.from_inputs(inputs())
    assert batch.targets is None and list(batch.extra) == ["prompt"]
    assert Batch.from_inputs({"image": paddle.zeros([1, 3, 2, 2]), "im_shape": paddle.ones([1, 2])}).extra == {}


def test_padded_extent() -> None:
    """4 x 6 pixels, of which the original image had twice as many rows, and half and a quarter as many columns."""
    given = {**inputs(), "scale_factor": paddle.to_tensor([[0.5, 2.0], [0.5, 4.0]])}
    assert Batch.from_inputs(given).padded_extent().tolist() == [[8.0, 3.0], [8.0, 1.5]]
