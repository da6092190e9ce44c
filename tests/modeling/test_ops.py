"""Tensor functions against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppdet.modeling.ops import roi_align as roi_align_module
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes, encode_boxes, pairwise_iou
from ppdet.modeling.ops.nms import best_of_each_class, image_of_rows, multiclass_nms, rows_to_slots
from ppdet.modeling.ops.roi_align import pyramid_roi_align, roi_levels


def test_iou_by_hand() -> None:
    a = paddle.to_tensor([[[0.0, 0.0, 10.0, 10.0]]])
    b = paddle.to_tensor([[[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 10.0, 10.0]]])
    np.testing.assert_allclose(pairwise_iou(a, b)[0, 0].numpy(), [50 / 150, 0, 1], atol=1e-6)


def test_decode_limits_growth_both_ways() -> None:
    boxes = paddle.to_tensor([[0.0, 0.0, 16.0, 16.0]] * 2)
    deltas = paddle.to_tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, -100.0, -100.0]])
    decoded = decode_boxes(boxes, deltas, (1, 1, 1, 1)).numpy()
    np.testing.assert_allclose(decoded[:, 2] - decoded[:, 0], [1000.0, 16 * 16 / 1000], rtol=1e-5)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_decode_computes_in_float32(kind: str) -> None:
    boxes = paddle.to_tensor([[100.0, 100.0, 1100.0, 900.0]])
    deltas = paddle.to_tensor([[0.5, 0.25, 0.5, -0.5]])
    exact = decode_boxes(boxes, deltas, (0.1, 0.1, 0.2, 0.2))
    found = decode_boxes(boxes, deltas.astype(kind), (0.1, 0.1, 0.2, 0.2))
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=1e-6)


def test_encode_inverts_decode() -> None:
    boxes = paddle.to_tensor([[10.0, 20.0, 50.0, 100.0]])
    target = paddle.to_tensor([[12.0, 10.0, 70.0, 90.0]])
    stds = (0.1, 0.1, 0.2, 0.2)
    deltas = encode_boxes(boxes, target, stds)
    np.testing.assert_allclose(deltas.numpy()[0, 2], math.log(58 / 40) / 0.2, rtol=1e-5)
    np.testing.assert_allclose(decode_boxes(boxes, deltas, stds).numpy(), target.numpy(), rtol=1e-5)


def test_clip_uses_each_images_own_size() -> None:
    boxes = paddle.to_tensor([[[-5.0, -5.0, 500.0, 500.0]], [[-5.0, 30.0, 500.0, 500.0]]])
    clipped = clip_boxes(boxes, paddle.to_tensor([[60.0, 100.0], [200.0, 40.0]])).numpy()
    np.testing.assert_array_equal(clipped[:, 0], [[0, 0, 100, 60], [0, 30, 40, 200]])


def test_nms_is_strict_per_class_and_per_image() -> None:
    boxes = paddle.to_tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 6.0]]] * 2)
    scores = paddle.to_tensor([[[0.9, 0.8, 0.7], [0.0, 0.0, 0.5]], [[0.3, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    rows, number = multiclass_nms(boxes, scores, 0.3, 0.5, 10)
    # IoU of the second with the first is exactly 0.5 and survives, of the third 0.6; class 1 is on its own; 0.3 is
    # not above the threshold of the second image.
    assert number.tolist() == [3, 0]
    assert sorted((int(row[0]), round(float(row[1]), 1)) for row in rows.numpy()) == [(0, 0.8), (0, 0.9), (1, 0.5)]


def test_best_of_each_class() -> None:
    scores = paddle.to_tensor([[[0.1, 0.9, 0.5, 0.9], [1.0, 1.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(best_of_each_class(scores, 2).numpy(), np.float32([[[0, 0.9, 0, 0.9], [1, 1, 0, 0]]]))
    np.testing.assert_array_equal(best_of_each_class(scores, 3)[0, 0].numpy(), np.float32([0, 0.9, 0.5, 0.9]))
    np.testing.assert_array_equal(best_of_each_class(scores, 9).numpy(), scores.numpy())


def test_rows_to_slots() -> None:
    rows = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    number = paddle.to_tensor([1, 0, 2], dtype="int32")
    image, place = image_of_rows(rows, number)
    assert image.tolist() == [0, 2, 2] and place.tolist() == [0, 0, 1]
    slots, valid = rows_to_slots(rows, number, 2)
    np.testing.assert_array_equal(slots.numpy(), [[[1, 2], [0, 0]], [[0, 0], [0, 0]], [[3, 4], [5, 6]]])
    np.testing.assert_array_equal(valid.numpy(), [[True, False], [False, False], [True, True]])


def test_roi_level_boundary() -> None:
    boxes = paddle.to_tensor([[0.0, 0.0, 111.0, 111.0], [0.0, 0.0, 112.0, 112.0], [0.0, 0.0, 0.0, 0.0]])
    assert roi_levels(boxes, 4).tolist() == [0, 1, 0]


def test_pooling_each_roi_on_its_level_equals_pooling_all_on_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of the CPU and of exported graphs against the way of a GPU: features and gradients, ragged images."""
    rng = np.random.default_rng(3)
    pyramid = [rng.normal(size=(3, 5, 64 // 2**level, 64 // 2**level)).astype("float32") for level in range(4)]
    corner, size = rng.uniform(0, 150, (17, 2)), 4 * 2 ** rng.uniform(0, 3.2, (17, 2))  # none as large as level 3's
    boxes = paddle.to_tensor(np.concatenate([corner, corner + size], axis=1).astype("float32"))
    number = paddle.to_tensor([6, 0, 11], dtype="int32")
    weight = paddle.to_tensor(rng.normal(size=(17, 5, 7, 7)).astype("float32"))

    def run(select: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        monkeypatch.setattr(roi_align_module, "may_depend_on_data", lambda boxes: select)
        features = [paddle.to_tensor(level, stop_gradient=False) for level in pyramid]
        scales = (0.25, 0.125, 0.0625, 0.03125)
        pooled = pyramid_roi_align(features, boxes, number, scales, 7, finest_scale=6.0)
        (pooled * weight).sum().backward()
        return pooled.numpy(), [feature.grad.numpy() for feature in features]

    assert set(roi_levels(boxes, 4, 6.0).tolist()) >= {0, 1, 2}
    (few, few_gradients), (all_, all_gradients) = run(True), run(False)
    np.testing.assert_array_equal(few, all_)
    assert np.abs(few).max() > 0.1
    for one, other in zip(few_gradients, all_gradients):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_roi_without_area_is_zero_and_harmless() -> None:
    features = [paddle.ones([1, 2, 32 // 2**level, 32 // 2**level]) for level in range(4)]
    for feature in features:
        feature.stop_gradient = False
    boxes = paddle.to_tensor([[8.0, 8.0, 40.0, 40.0], [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 25.0, 5.0]])
    number = paddle.to_tensor([3], dtype="int32")
    pooled = pyramid_roi_align(features, boxes, number, (0.25, 0.125, 0.0625, 0.03125), 7)
    np.testing.assert_allclose(pooled[0].numpy(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(pooled[1:].numpy(), 0.0)
    pooled.sum().backward()
    assert float(features[0].grad.sum()) == pytest.approx(2 * 49, rel=1e-4)
    assert float(features[3].grad.abs().sum()) == 0.0
