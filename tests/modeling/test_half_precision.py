"""Half precision stops where boxes, scores and losses begin.

Most operators have no float16 or bfloat16 kernel on a CPU, so whatever would compute in half precision here fails;
the rest is compared with NumPy in float64 on the same (already rounded) inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor

from deploy.common.paste import paste_region
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.assigners.rpn_assigner import RPNTargetAssign, inside_image
from ppdet.modeling.heads.bbox_outputs import bbox_losses, deltas_of_label
from ppdet.modeling.heads.mask_outputs import mask_loss
from ppdet.modeling.losses.functional import (
    binary_cross_entropy,
    cross_entropy,
    safe_ratio,
    semantic_cross_entropy,
    smooth_l1,
)
from ppdet.modeling.ops.boxes import (
    boxes_to_original,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    is_nonempty,
    pairwise_iou,
)
from ppdet.modeling.ops.nms import multiclass_nms
from ppdet.modeling.ops.roi_align import pyramid_roi_align, roi_levels
from ppdet.modeling.post_process import BBoxPostProcess, MultiClassNMS
from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
from ppdet.modeling.proposal_generator.rpn_head import RPNHead, RPNOutput
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs

pytestmark = pytest.mark.parametrize("kind", ["float16", "bfloat16"])

STDS = (0.1, 0.1, 0.2, 0.2)
BOXES = [[3.3, 17.7, 1333.37, 799.9], [100.1, 50.2, 900.3, 777.7], [0, 0, 300.5, 300.5], [1290.1, 760.3, 1330, 799]]


def half(values: Any, kind: str) -> tuple[Tensor, np.ndarray]:
    """A tensor in half precision, and exactly its values in float64."""
    tensor = paddle.to_tensor(np.asarray(values, np.float32)).astype(kind)
    return tensor, tensor.astype("float32").numpy().astype(np.float64)


def same(found: Tensor, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def iou64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    area = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    return inter / (area[0][:, None] + area[1][None] - inter)


def test_overlaps_of_boxes_whose_area_half_precision_cannot_hold(kind: str) -> None:
    boxes, exact = half(BOXES, kind)
    expected = iou64(exact, exact)
    assert (exact[0, 2:] - exact[0, :2]).prod() > 65504 and 0.5 < expected[0, 1] < 0.6
    same(pairwise_iou(boxes.unsqueeze(0), boxes.unsqueeze(0))[0], expected)
    same(pairwise_iou(boxes.unsqueeze(0), boxes.astype("float32").unsqueeze(0))[0], expected)


def test_encode_and_decode(kind: str) -> None:
    boxes, exact = half(BOXES[:3], kind)
    targets, wanted = half([BOXES[1], BOXES[2], BOXES[0]], kind)
    centre, size = (exact[:, :2] + exact[:, 2:]) / 2, exact[:, 2:] - exact[:, :2]
    target_size = wanted[:, 2:] - wanted[:, :2]
    shift = ((wanted[:, :2] + wanted[:, 2:]) / 2 - centre) / size
    same(encode_boxes(boxes, targets, STDS), np.concatenate([shift, np.log(target_size / size)], 1) / STDS, 1e-5)
    deltas, moves = half([[0.37, -0.41, 0.9, -0.77], [0.1, 5.3, 20.0, -20.7], [0, 0, 0, 0]], kind)
    moves = moves * STDS
    middle, span = centre + size * moves[:, :2], size * np.exp(np.clip(moves[:, 2:], -np.log(62.5), np.log(62.5)))
    same(decode_boxes(boxes, deltas, STDS), np.concatenate([middle - span / 2, middle + span / 2], 1), 1e-6 * 1e3)
    np.testing.assert_allclose(
        decode_boxes(boxes, deltas, STDS).numpy(),
        np.concatenate([middle - span / 2, middle + span / 2], 1),
        rtol=1e-6,
        atol=1e-3 if kind == "float16" else 2e-3,
    )


def test_clipping_levels_and_the_inside_of_images(kind: str) -> None:
    boxes, exact = half([[[-3.3, 5.1, 2000.0, 900.0], [7.0, 7.0, 7.0, 9.0]]], kind)
    im_shape = paddle.to_tensor([[799.9, 1333.37]])  # float32: more than half precision holds
    expected = np.clip(exact, 0, np.float32([1333.37, 799.9, 1333.37, 799.9]).astype(np.float64))
    same(clip_boxes(boxes, im_shape), expected, 0)
    assert is_nonempty(boxes).tolist() == [[True, False]]
    level_boxes, sides = half([[0, 0, 447, 447], [0, 0, 449, 449], [0, 0, 1300, 1300]], kind)
    area = (sides[:, 2:] - sides[:, :2]).prod(axis=1)
    expected_level = np.clip(np.floor(np.log2(np.sqrt(area) / 56)), 0, 3)
    assert roi_levels(level_boxes, 4).tolist() == expected_level.tolist()
    anchors, edges = half([[0.0, 0.0, 1330.0, 790.0], [8.0, 8.0, 1336.0, 700.0]], kind)
    inside = (edges[:, 0] >= 0) & (edges[:, 2] < 1333.37) & (edges[:, 3] < 799.9)
    assert inside_image(anchors, im_shape, 0.0)[0].tolist() == inside.tolist()


def test_anchors_do_not_take_the_type_of_the_features(kind: str) -> None:
    features = paddle.zeros([1, 1, 2, 342]).astype(kind)  # centres up to 1364 px
    found = AnchorGenerator([[30]], [0.5], [4]).level(0, features).numpy().reshape(2, 342, 4)
    half_w, half_h = 15 / np.sqrt(0.5), 15 * np.sqrt(0.5)
    np.testing.assert_allclose(
        found[1, 341], [1364 - half_w, 4 - half_h, 1364 + half_w, 4 + half_h], rtol=1e-6, atol=1e-6
    )


def test_losses_of_extreme_logits(kind: str) -> None:
    # Paddle's CPU kernel lets no logit be more than 64 below the largest of its row (its GPU kernel does not mind).
    logits, exact = half([[80.0, 20.5, 3.3], [17.7, 80.0, 0.1], [0.3, 0.2, -60000.0]], kind)
    top = exact.max(axis=1, keepdims=True)
    log_sum = (top + np.log(np.exp(exact - top).sum(axis=1, keepdims=True)))[:, 0]
    labels = [1, 1, 0]
    same(cross_entropy(logits, paddle.to_tensor(labels)), log_sum - exact[range(3), labels])
    target = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    expected = np.maximum(exact, 0) - exact * target + np.log1p(np.exp(-np.abs(exact)))
    same(binary_cross_entropy(logits, half(target, kind)[0]), expected)


@pytest.mark.parametrize("beta", [0.0, 1.0 / 9.0, 1.0])
def test_smooth_l1(kind: str, beta: float) -> None:
    prediction, exact = half([1333.37, 0.013, -7.7, 0.5], kind)
    target, wanted = half([0.37, 0.011, 7.7, 0.4], kind)
    distance = np.abs(exact - wanted)
    quadratic = 0.5 * distance**2 / beta if beta else distance
    expected = np.where(distance < beta, quadratic, distance - beta / 2)
    same(smooth_l1(prediction, target, beta), expected)


def test_sums_over_a_million_pixels(kind: str) -> None:
    logits, exact = half(np.full((1, 3, 1024, 1024), 0.37) + np.array([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1), kind)
    labels = paddle.zeros([1, 1024, 1024], dtype="uint8")
    row = exact[0, :, 0, 0]
    expected = np.log(np.exp(row).sum()) - row[0]
    same(semantic_cross_entropy(logits, labels, 1), np.array(expected), 1e-5)
    same(semantic_cross_entropy(logits, labels, 1, over_all_pixels=True), np.array(expected), 1e-5)
    assert 1024 * 1024 * expected > 65504  # the sum before the division


def test_a_ratio_of_counts_above_2048(kind: str) -> None:
    total, exact = half(12345.0, kind)
    same(safe_ratio(total, paddle.to_tensor(4097)), np.array(exact / 4097))


def test_suppression_and_its_order(kind: str) -> None:
    boxes, exact = half([[BOXES[0], BOXES[1], BOXES[2], BOXES[3]]], kind)
    overlap = iou64(exact[0], exact[0])[0, 1]
    scores, values = half([[[0.9, 0.89, 0.5, 0.3]]], kind)
    for threshold, kept in ((overlap - 1e-4, 3), (overlap + 1e-4, 4)):
        rows, number = multiclass_nms(boxes, scores, 0.05, float(threshold), 10)
        assert number.tolist() == [kept] and rows.dtype == paddle.float32
    probability = paddle.to_tensor(np.stack([values[0, 0], 1 - values[0, 0]], 1)[None].astype("float32")).astype(kind)
    process = BBoxPostProcess(MultiClassNMS(0.05, 0.9, 10))
    rows, number = process(boxes, probability, paddle.ones([1, 4], dtype="bool"))
    same(rows[:-1, 1], np.sort(values[0, 0])[::-1])
    factor, ratio = half([[0.6123, 1.7]], kind)
    expected = exact[0] / ratio[0, [1, 0, 1, 0]]
    same(process.to_original(rows, number, factor)[:-1, 2:], expected, 1e-6 * 1e3)
    same(boxes_to_original(boxes, factor), expected[None], 1e-6 * 1e3)


def test_proposals(kind: str) -> None:
    logits, values = half([[4.1, -80.0, 80.0]], kind)
    deltas, moves = half([[[0.1, 0.2, 0.0, 0.0], [0, 0, 0, 0], [0.3, 0, 0.5, 0]]], kind)
    anchors = paddle.to_tensor([[900.3, 100.1, 1100.7, 300.2], [0.0, 0, 9, 9], [5.5, 6.6, 77.7, 88.8]])
    generator = ProposalGenerator(3, 3, 0.7)
    found, scores = generator([anchors], [logits], [deltas], paddle.to_tensor([[800.0, 1333.37]]), fixed_slots=True)
    order = [2, 0]
    same(scores[:, :2], 1 / (1 + np.exp(-values[:, order])))
    size = np.array([[72.2, 82.2], [200.4, 200.1]])
    centre = np.array([[41.6, 47.7], [1000.5, 200.15]]) + size * moves[0, order, :2]
    span = size * np.exp(moves[0, order, 2:])
    same(found.boxes[0, :2], np.clip(np.concatenate([centre - span / 2, centre + span / 2], 1), 0, None), 2e-4)


def test_pooling_keeps_the_place_of_a_far_box(kind: str) -> None:
    """A map that rises by one a pixel: each bin is the x of its centre, to float32 and not to half a map's value."""
    ramp = np.broadcast_to(np.arange(512, dtype=np.float32) / 2, (1, 1, 4, 512))
    feature, exact = half(ramp, kind)
    boxes = paddle.to_tensor([[1333.37, 0.0, 1340.57, 12.0]])
    pooled = pyramid_roi_align([feature], boxes, paddle.to_tensor([1], dtype="int32"), (0.25,), 2, 1)
    xs = (1333.37 + np.array([1.8, 5.4])) / 4 - 0.5
    expected = np.interp(xs, np.arange(512), exact[0, 0, 0])
    same(pooled[0, 0, 0], expected, 1e-5)


def _rois(kind: str) -> tuple[SampledRoIs, Targets, np.ndarray, np.ndarray]:
    boxes, exact = half([BOXES[:3]], kind)
    objects, wanted = half([[[10.1, 20.2, 1300.3, 788.8]]], kind)
    yes = paddle.to_tensor([[True, True, True]])
    positive = paddle.to_tensor([[True, False, False]])
    labels = paddle.to_tensor([[1, 2, 2]])
    rois = SampledRoIs(boxes, labels, paddle.zeros([1, 3], dtype="int64"), positive, yes, ~yes, 1)
    return rois, Targets(objects, paddle.to_tensor([[1]]), paddle.ones([1, 1], dtype="bool")), exact, wanted


@pytest.mark.parametrize("agnostic", [True, False])
def test_box_losses(kind: str, agnostic: bool) -> None:
    rois, targets, exact, wanted = _rois(kind)
    logits, values = half([[30.0, 80.0, -60000.0], [0.3, 0.1, 0.7], [5.0, 5.0, 4.0]], kind)
    deltas, moves = half(np.linspace(-2, 2, 12 if agnostic else 24).reshape(3, -1), kind)
    for tensor in (logits, deltas):
        tensor.stop_gradient = False
    classification, regression = bbox_losses(logits, deltas, rois, targets, STDS, 2, 1.0)
    rows = np.log(np.exp(values - values.max(1, keepdims=True)).sum(1)) + values.max(1) - values[range(3), [1, 2, 2]]
    same(classification, np.array(rows.mean()))
    size, target_size = exact[0, 0, 2:] - exact[0, 0, :2], wanted[0, 0, 2:] - wanted[0, 0, :2]
    shift = (wanted[0, 0, :2] + wanted[0, 0, 2:] - exact[0, 0, :2] - exact[0, 0, 2:]) / 2 / size
    own = moves[0] if agnostic else moves[0, 4:]
    distance = np.abs(own - np.concatenate([shift, np.log(target_size / size)]) / STDS)
    same(regression, np.array(np.where(distance < 1, distance**2 / 2, distance - 0.5).sum() / 3), 1e-5)
    (classification + regression).backward()
    assert str(logits.grad.dtype).endswith(kind) and np.isfinite(deltas.grad.astype("float32").numpy()).all()
    same(deltas_of_label(deltas, paddle.to_tensor([1, 0, 1]), 2)[0].detach(), own, 0)


def test_assignment_of_large_boxes(kind: str) -> None:
    candidates, exact = half([BOXES], kind)
    objects, wanted = half([[[10.0, 20.0, 1320.0, 790.0], [5.0, 5.0, 300.0, 290.0]]], kind)
    targets = Targets(objects, paddle.to_tensor([[1, 0]]), paddle.ones([1, 2], dtype="bool"))
    assigner = BBoxAssigner(batch_size_per_im=512, add_gt=False, num_classes=2)
    drawn = assigner(Proposals(candidates, paddle.ones([1, 4], dtype="bool")), targets, 0)
    best = iou64(wanted[0], exact[0])
    expected = {i for i in range(4) if best[:, i].max() >= 0.5}
    found = drawn.boxes[0].numpy()[drawn.positive[0].numpy()]
    assert drawn.boxes.dtype == paddle.float32 and len(expected) == 3
    np.testing.assert_array_equal(sorted(found[:, 0]), sorted(exact[0, list(expected), 0]))


def test_mask_loss(kind: str) -> None:
    rois, _, exact, _ = _rois(kind)
    rois = rois.positives_only()
    masks = np.zeros((1, 1, 800, 1344), np.uint8)
    masks[0, 0, :, :700] = 1
    logits, values = half(np.linspace(-80, 80, 28 * 28).reshape(1, 28, 28), kind)
    found = mask_loss(lambda labels: logits, rois, paddle.to_tensor(masks), MaskAssigner())
    edges = exact[0, 0, 0] + (exact[0, 0, 2] - exact[0, 0, 0]) / 28 * np.arange(29)
    covered = np.clip((700 - edges[:-1]) / np.diff(edges), 0, 1) >= 0.5
    target = np.broadcast_to(covered, (28, 28))
    expected = np.maximum(values[0], 0) - values[0] * target + np.log1p(np.exp(-np.abs(values[0])))
    same(found, np.array(expected.mean()), 1e-5)


def test_rpn_losses(kind: str) -> None:
    head = RPNHead(
        anchor_generator=AnchorGenerator([[512]], [1.0], [64]),
        rpn_target_assign=RPNTargetAssign(),
        train_proposal=ProposalGenerator(),
        test_proposal=ProposalGenerator(),
        in_channel=4,
    )
    feature = paddle.zeros([1, 4, 16, 24])
    logits, values = half(np.linspace(-80, 80, 384).reshape(1, 1, 16, 24), kind)
    deltas, _ = half(np.linspace(-3, 3, 4 * 384).reshape(1, 4, 16, 24), kind)
    logits.stop_gradient = deltas.stop_gradient = False
    targets = Targets(
        paddle.to_tensor([[[300.0, 300.0, 800.0, 790.0]]]), paddle.to_tensor([[0]]), paddle.ones([1, 1], dtype="bool")
    )
    head.rpn_target_assign.use_random = False
    im_shape = paddle.to_tensor([[1024.0, 1536.0]])
    losses = head.loss([feature], RPNOutput([logits], [deltas]), im_shape, targets)
    anchors = paddle.concat(head.anchor_generator([feature]))
    drawn = head.rpn_target_assign(anchors, im_shape, targets)
    positive, negative = drawn.positives.numpy()[0], drawn.negatives.numpy()[0]
    assert positive.any() and negative.any()
    row = values.reshape(-1)
    each = np.maximum(row, 0) - row * positive + np.log1p(np.exp(-np.abs(row)))
    same(losses["loss_rpn_cls"], np.array((each * (positive | negative)).sum() / (positive | negative).sum()), 1e-5)
    assert losses["loss_rpn_reg"].dtype == paddle.float32
    sum(losses.values()).backward()
    assert str(deltas.grad.dtype).endswith(kind)


def test_pasted_masks(kind: str) -> None:
    if kind == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    box = np.array([900.3, 5.1, 1300.7, 300.2], np.float16)
    mask = np.linspace(0, 1, 784).reshape(28, 28).astype(np.float16)
    found, corner = paste_region(mask, box, 400, 1400)
    expected, exact_corner = paste_region(mask.astype(np.float32), box.astype(np.float32), 400, 1400)
    assert found.dtype == np.float32 and corner == exact_corner and abs(corner[1] - 900) <= 15
    np.testing.assert_array_equal(found, expected)
