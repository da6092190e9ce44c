"""Assigners on crafted batches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.assigners.matcher import match
from ppdet.modeling.assigners.rpn_assigner import RPNTargetAssign, inside_image
from ppdet.modeling.assigners.sampler import sample
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs


def two_images() -> Targets:
    """One object in the first image, none in the second."""
    return Targets(
        paddle.to_tensor([[[0.0, 0.0, 20.0, 20.0]], [[0.0, 0.0, 0.0, 0.0]]]),
        paddle.to_tensor([[3], [0]]),
        paddle.to_tensor([[True], [False]]),
    )


CANDIDATES = Proposals(
    paddle.to_tensor([[[0.0, 0.0, 20.0, 18.0], [50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 20.0, 20.0]]] * 2),
    paddle.to_tensor([[True, True, False]] * 2),
)


def test_invalid_candidates_neither_match_nor_get_drawn() -> None:
    rois = BBoxAssigner(batch_size_per_im=8, fg_fraction=0.5, num_classes=80)(CANDIDATES, two_images(), 0)
    assert rois.boxes.shape == [2, 4, 4]
    np.testing.assert_array_equal(rois.valid.numpy(), [[True, True, True, False], [True, True, False, False]])
    np.testing.assert_array_equal(rois.labels.numpy(), [[3, 3, 80, 80], [80, 80, 80, 80]])
    np.testing.assert_array_equal(rois.is_gt.numpy(), [[True, False, False, False], [False] * 4])
    np.testing.assert_array_equal(rois.boxes[0, :2].numpy(), [[0, 0, 20, 20], [0, 0, 20, 18]])


def test_low_quality_claims_ties_and_later_objects_win() -> None:
    iou = paddle.to_tensor([[[0.55, 0.55, 0.2], [0.1, 0.55, 0.52]]])
    yes = paddle.ones([1, 3], dtype="bool")
    found = match(iou, paddle.ones([1, 2], dtype="bool"), yes, 0.5, 0.5, 0.5)
    assert found.assigned.tolist() == [[1, 2, 2]]
    plain = match(iou, paddle.ones([1, 2], dtype="bool"), yes, 0.5, 0.5, None)
    assert plain.assigned.tolist() == [[1, 1, 2]]


def test_sampler_quota() -> None:
    assigned = paddle.to_tensor([[1] * 10 + [0] * 10, [1] * 2 + [0] * 3 + [-1] * 15])
    positives, negatives = sample(assigned, 8, 0.25)
    assert positives.astype("int32").sum(axis=1).tolist() == [2, 2]
    assert negatives.astype("int32").sum(axis=1).tolist() == [6, 3]
    assert not bool(paddle.logical_and(positives, assigned != 1).any())
    assert not bool(paddle.logical_and(negatives, assigned != 0).any())


def test_rpn_border_belongs_to_each_image() -> None:
    anchors = paddle.to_tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 40.0]])
    assigner = RPNTargetAssign(batch_size_per_im=4)
    drawn = assigner(anchors, paddle.to_tensor([[30.0, 30.0], [50.0, 30.0]]), two_images())
    assert drawn.positives.tolist() == [[True, False], [False, False]]
    assert drawn.negatives.tolist() == [[False, False], [True, True]]


def test_no_anchor_inside() -> None:
    anchors = paddle.to_tensor([[-5.0, 0.0, 20.0, 20.0]])
    drawn = RPNTargetAssign()(anchors, paddle.to_tensor([[30.0, 30.0], [30.0, 30.0]]), two_images())
    assert not bool(drawn.positives.any()) and not bool(drawn.negatives.any())


def test_mask_target_of_each_rois_own_object() -> None:
    masks = np.zeros((1, 2, 40, 40), np.uint8)
    masks[0, 0, :, :20] = 1
    masks[0, 1, 20:, :] = 1
    rois = paddle.to_tensor([[[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 40.0, 40.0], [20.0, 0.0, 40.0, 40.0], [0.0] * 4]])
    index = paddle.to_tensor([[1, 0, 0, 0]])
    yes = paddle.to_tensor([[True, True, True, False]])
    target = MaskAssigner(4)(SampledRoIs(rois, index, index, yes, yes, yes, 4), paddle.to_tensor(masks))[0].numpy()
    np.testing.assert_array_equal(target[0], [[0] * 4, [0] * 4, [1] * 4, [1] * 4])
    np.testing.assert_array_equal(target[1], [[1, 1, 0, 0]] * 4)
    np.testing.assert_array_equal(target[2:], 0)


def test_slots_of_positives_on_a_cpu_are_as_many_as_there_are_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    positive = paddle.to_tensor([[True, True, False, False], [True, False, False, False]])
    boxes = paddle.arange(32, dtype="float32").reshape([2, 4, 4]) + 1
    index = paddle.arange(8, dtype="int64").reshape([2, 4])
    rois = SampledRoIs(boxes, index, index, positive, paddle.ones_like(positive), positive, 3)
    few = rois.positives_only()
    assert few.valid.tolist() == [[True, True], [True, False]] and few.labels.tolist() == [[0, 1], [4, 5]]
    assert few.boxes[1].tolist() == [[17, 18, 19, 20], [0, 0, 0, 0]]
    monkeypatch.setattr("ppdet.structures.proposals.may_depend_on_data", lambda x: False)
    fixed = rois.positives_only()
    assert fixed.valid.shape == [2, 3] and fixed.valid[:, :2].tolist() == few.valid.tolist()
    monkeypatch.undo()
    none = rois._replace(positive=paddle.zeros_like(positive)).positives_only()
    assert none.valid.tolist() == [[False], [False]]


def test_padding_from_a_larger_image_in_the_batch_does_not_train() -> None:
    centres = paddle.to_tensor([[0.0, 0.0], [28.0, 60.0], [32.0, 0.0], [0.0, 64.0], [64.0, 64.0]])
    anchors = paddle.concat([centres - 16, centres + 16], axis=1)
    sizes = paddle.to_tensor([[40.0, 20.0], [96.0, 96.0]])  # padded by themselves: 64 x 32 and 96 x 96
    inside = inside_image(anchors, sizes, -1)
    assert inside.tolist() == [[True, True, False, False, False], [True] * 5]
