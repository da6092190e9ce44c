"""Single functions against crafted cases recorded from the official implementation (oracle/units.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from deploy.common.paste import paste_box, paste_region, place_part
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.assigners.matcher import match
from ppdet.modeling.assigners.rpn_assigner import inside_image
from ppdet.modeling.losses.functional import semantic_cross_entropy, smooth_l1
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes, encode_boxes, pairwise_iou
from ppdet.modeling.ops.roi_align import pyramid_roi_align, roi_levels
from ppdet.modeling.post_process import BBoxPostProcess, MultiClassNMS
from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs

STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
SCALES = (0.25, 0.125, 0.0625, 0.03125)


@pytest.fixture(scope="module")
def units(oracle: Path) -> dict[str, np.ndarray]:
    with np.load(oracle / "golden" / "units.npz") as file:
        return dict(file)


def tensor(value: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(value)


def test_anchors(units: dict[str, np.ndarray]) -> None:
    generator = AnchorGenerator()
    for level, (height, width) in enumerate(units["anchors/sizes"]):
        anchors = generator.level(level, paddle.zeros([1, 1, int(height), int(width)]))
        np.testing.assert_allclose(anchors.numpy(), units[f"anchors/level{level}"], atol=1e-4)


def test_inside(units: dict[str, np.ndarray]) -> None:
    inside = inside_image(tensor(units["inside/anchors"]), paddle.to_tensor([[60.0, 100.0]]), 0)
    np.testing.assert_array_equal(inside[0].numpy(), units["inside/inside"].astype(bool))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_coder(units: dict[str, np.ndarray], stage: int) -> None:
    case = f"coder_stage{stage}/"
    proposals = tensor(units[case + "proposals"])
    encoded = encode_boxes(proposals, tensor(units[case + "gt"]), STDS[stage])
    np.testing.assert_allclose(encoded.numpy(), units[case + "encoded"], rtol=1e-5, atol=1e-5)
    decoded = decode_boxes(proposals, tensor(units[case + "deltas"]), STDS[stage])
    decoded = clip_boxes(decoded.unsqueeze(0), paddle.to_tensor([[120.0, 200.0]]))[0]
    np.testing.assert_allclose(decoded.numpy(), units[case + "decoded"], rtol=1e-5, atol=1e-3)


def test_iou(units: dict[str, np.ndarray]) -> None:
    iou = pairwise_iou(tensor(units["iou/a"]).unsqueeze(0), tensor(units["iou/b"]).unsqueeze(0))[0]
    np.testing.assert_allclose(iou.numpy(), units["iou/iou"], atol=1e-6)


def run_match(units: dict[str, np.ndarray], case: str, thresholds: tuple[float, float, float | None]) -> None:
    priors, gt = units[f"{case}/priors"], units[f"{case}/gt"]
    valid = np.ones((1, max(1, len(gt))), bool)
    if not len(gt):  # no object: one padding slot
        gt, valid = np.zeros((1, 4), np.float32), np.zeros((1, 1), bool)
    iou = pairwise_iou(tensor(gt).unsqueeze(0), tensor(priors).unsqueeze(0))
    candidates = paddle.ones([1, len(priors)], dtype="bool")
    found = match(iou, tensor(valid), candidates, *thresholds)
    np.testing.assert_array_equal(found.assigned[0].numpy(), units[f"{case}/assigned"])
    if valid.any():
        np.testing.assert_allclose(found.overlap[0].numpy(), units[f"{case}/max_overlaps"], atol=1e-6)


@pytest.mark.parametrize(
    ("case", "thresholds"),
    [
        ("assign_rpn", (0.7, 0.3, 0.3)),
        ("assign_rpn_ties", (0.7, 0.3, 0.3)),
        ("assign_htc_stage0", (0.5, 0.5, 0.5)),
        ("assign_htc_stage1", (0.6, 0.6, 0.6)),
        ("assign_htc_stage2", (0.7, 0.7, 0.7)),
        ("assign_cascade_stage0", (0.5, 0.5, None)),
        ("assign_cascade_stage1", (0.6, 0.6, None)),
        ("assign_cascade_stage2", (0.7, 0.7, None)),
        ("assign_htc_ties", (0.5, 0.5, 0.5)),
        ("assign_empty", (0.5, 0.5, 0.5)),
    ],
)
def test_match(units: dict[str, np.ndarray], case: str, thresholds: tuple[float, float, float | None]) -> None:
    run_match(units, case, thresholds)


def draw(units: dict[str, np.ndarray], number: int, fraction: float) -> SampledRoIs:
    """The RoIs of the case assign_htc_stage0."""
    gt, labels = units["assign_htc_stage0/gt"], units["assign_htc_stage0/labels"]
    priors = tensor(units["assign_htc_stage0/priors"]).unsqueeze(0)
    targets = Targets(
        tensor(gt).unsqueeze(0),
        tensor(labels.astype(np.int64)).unsqueeze(0),
        paddle.ones([1, len(gt)], dtype="bool"),
    )
    assigner = BBoxAssigner(batch_size_per_im=number, fg_fraction=fraction, num_classes=80)
    return assigner(Proposals(priors, paddle.ones(priors.shape[:2], dtype="bool")), targets, 0)


def test_sample_everything(units: dict[str, np.ndarray]) -> None:
    rois = draw(units, 10**6, 0.25)
    assert bool(rois.valid.all())
    np.testing.assert_allclose(rois.boxes[0].numpy(), units["sample_all/sampled"])
    count = len(units["sample_all/positives"])
    assert int(rois.positive.astype("int32").sum()) == count
    np.testing.assert_allclose(rois.boxes[0, :count].numpy(), units["sample_all/positives"])
    np.testing.assert_array_equal(rois.is_gt[0, :count].numpy(), units["sample_all/pos_is_gt"].astype(bool))
    np.testing.assert_array_equal(rois.gt_index[0, :count].numpy(), units["sample_all/pos_assigned_gt"])


def test_sample_quota(units: dict[str, np.ndarray]) -> None:
    everything = {tuple(row) for row in units["sample_all/positives"].round(3).tolist()}
    drawn = set()
    for _ in range(10):
        rois = draw(units, 16, 0.25)
        assert rois.boxes.shape[1] == 16 and bool(rois.valid.all()) and rois.max_positives == 4
        assert rois.positive[0].numpy().tolist() == [True] * 4 + [False] * 12
        positives = {tuple(row) for row in rois.boxes[0, :4].numpy().round(3).tolist()}
        assert positives <= everything
        assert (rois.labels[0, 4:].numpy() == 80).all() and not rois.is_gt[0, 4:].numpy().any()
        drawn |= positives
    assert len(drawn) > 4  # not the same four each time


def test_roi_levels(units: dict[str, np.ndarray]) -> None:
    levels = roi_levels(tensor(units["roi_levels/rois"][:, 1:]), 4)
    np.testing.assert_array_equal(levels.numpy(), units["roi_levels/level"])


@pytest.mark.parametrize("resolution", [7, 14])
def test_roi_features(units: dict[str, np.ndarray], resolution: int) -> None:
    case = f"roi_features_{resolution}/"
    rois = units[case + "rois"]
    order = np.argsort(rois[:, 0], kind="stable")
    number = np.bincount(rois[:, 0].astype(int), minlength=2).astype(np.int32)
    features = [tensor(units[f"{case}feat{level}"]) for level in range(4)]
    pooled = pyramid_roi_align(features, tensor(rois[order, 1:]), tensor(number), SCALES, resolution)
    np.testing.assert_allclose(pooled.numpy(), units[case + "pooled"][order], atol=2e-5)


@pytest.mark.parametrize("threshold", ["0.001", "0.05"])
def test_multiclass_nms(units: dict[str, np.ndarray], threshold: str) -> None:
    case = f"multiclass_nms_{threshold}/"
    process = BBoxPostProcess(MultiClassNMS(float(threshold), 0.5, 60))
    boxes = tensor(units[case + "boxes"]).unsqueeze(0)
    valid = paddle.ones(boxes.shape[:2], dtype="bool")
    rows, number = process(boxes, tensor(units[case + "scores"]).unsqueeze(0), valid)
    assert number.tolist() == [60]
    np.testing.assert_array_equal(rows[:-1, 0].numpy(), units[case + "labels"])
    np.testing.assert_allclose(rows[:-1, 1].numpy(), units[case + "det"][:, 4], atol=1e-6)
    np.testing.assert_allclose(rows[:-1, 2:].numpy(), units[case + "det"][:, :4], atol=1e-4)


@pytest.mark.parametrize("fixed_slots", [True, False])
def test_rpn_proposals(units: dict[str, np.ndarray], fixed_slots: bool) -> None:
    case = "rpn_proposals/"
    scores = [tensor(units[f"{case}cls{i}"]) for i in range(5)]
    deltas = [tensor(units[f"{case}reg{i}"]) for i in range(5)]
    proposals, found = ProposalGenerator(100, 80, 0.7)(
        AnchorGenerator()(scores),
        [x.transpose([0, 2, 3, 1]).reshape([1, -1]) for x in scores],
        [x.transpose([0, 2, 3, 1]).reshape([1, -1, 4]) for x in deltas],
        paddle.to_tensor([[60.0, 90.0]]),
        fixed_slots,
    )
    assert proposals.boxes.shape[1] == 80 and bool(proposals.valid.all())
    np.testing.assert_allclose(found[0].numpy(), units[case + "scores"], atol=1e-6)
    np.testing.assert_allclose(proposals.boxes[0].numpy(), units[case + "boxes"], atol=1e-3)


def test_mask_target(units: dict[str, np.ndarray]) -> None:
    rois = tensor(units["mask_target/rois"]).unsqueeze(0)
    index = tensor(units["mask_target/gt_index"].astype(np.int64)).unsqueeze(0)
    yes = paddle.ones(index.shape, dtype="bool")
    sampled = SampledRoIs(rois, index, index, yes, yes, yes, index.shape[1])
    target = MaskAssigner(28)(sampled, tensor(units["mask_target/bitmaps"].astype(np.uint8)).unsqueeze(0))
    np.testing.assert_array_equal(target[0].numpy(), units["mask_target/target"].astype(np.float32))


def test_paste(units: dict[str, np.ndarray]) -> None:
    for place, (probability, box) in enumerate(zip(units["paste/probabilities"], units["paste/boxes"])):
        region, (top, left) = paste_region(probability, box, 48, 64)
        values = np.zeros((48, 64), np.float32)
        values[top : top + region.shape[0], left : left + region.shape[1]] = region
        np.testing.assert_allclose(values, units["paste/values"][place], atol=1e-6)
        pasted = place_part(*paste_box(probability, box, 48, 64), 48, 64)
        np.testing.assert_array_equal(pasted, units["paste/bitmap"][place])


@pytest.mark.parametrize("over_all", [True, False])
def test_semantic_loss(units: dict[str, np.ndarray], over_all: bool) -> None:
    case = f"semantic_loss_{'all' if over_all else 'labelled'}/"
    logits, labels = tensor(units[case + "logits"]), tensor(units[case + "labels"].astype(np.int64))
    loss = 0.2 * semantic_cross_entropy(logits, labels, 8, 255, over_all)
    np.testing.assert_allclose(float(loss), float(units[case + "loss"]), rtol=1e-5)


@pytest.mark.parametrize(("case", "beta"), [("smooth_l1_beta_1.000", 1.0), ("smooth_l1_beta_0.111", 1.0 / 9.0)])
def test_smooth_l1(units: dict[str, np.ndarray], case: str, beta: float) -> None:
    loss = smooth_l1(tensor(units[f"{case}/pred"]), tensor(units[f"{case}/target"]), beta).sum() / 64
    np.testing.assert_allclose(float(loss), float(units[f"{case}/loss"]), rtol=1e-5)
