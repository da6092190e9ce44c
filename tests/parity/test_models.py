"""Every block of the three recorded models against the official implementation: forward, detections, a training step.

On synthetic scenes everywhere, on photographs where their recordings are at hand. Forward passes agree to float32
rounding; the tolerances leave room for other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest
from pycocotools import mask as coco_mask

from deploy.common.paste import paste_box, place_part
from ppdet.checkpoint.names.mmdetection import MMDetection
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals
from tests.parity.conftest import Measure
from tests.parity.recordings import Recording, recorded_losses, sampled, stacked

EVERY = 10**6
"""RoIs drawn an image in the recorded training step: all of them."""


def difference(value: paddle.Tensor, golden: np.ndarray) -> float:
    """Norm of the difference over the norm of the recording."""
    array = value.numpy()
    own = array if array.shape == golden.shape else sampled(array, golden.size)
    return float(np.linalg.norm(own - golden) / np.linalg.norm(golden))


def relative(value: float, golden: float) -> float:
    """Difference over the recorded value; where that is zero, zero or no agreement."""
    return abs(value - golden) / golden if golden else float(value != 0)


@pytest.fixture(scope="module")
def blocks(recording: Recording) -> dict[str, Any]:
    """Outputs of the parts up to the RoI heads."""
    model, inputs = recording.model, recording.inputs
    with paddle.no_grad():
        pyramid = model.neck(model.backbone(inputs["image"]))
        rpn = model.rpn_head(pyramid)
        semantic_head = getattr(model, "fused_semantic_head", None)
        semantic = None if semantic_head is None else semantic_head(pyramid)
        proposals, scores = model.rpn_head.propose(pyramid, rpn, inputs["im_shape"])
    features = Features(pyramid, None if semantic is None else semantic.feature)
    return {"features": features, "rpn": rpn, "semantic": semantic, "proposals": proposals, "scores": scores}


def test_input(recording: Recording, measure: Measure) -> None:
    measure("input", difference(recording.inputs["image"], recording.golden["input"]), 1e-6)


def test_pyramid_and_rpn(recording: Recording, blocks: dict, measure: Measure) -> None:
    golden = recording.golden
    for level in range(5):
        assert list(blocks["features"].pyramid[level].shape) == golden[f"fpn{level}.shape"].tolist()
        measure("FPN", difference(blocks["features"].pyramid[level], golden[f"fpn{level}"]), 1e-4)
        measure("RPN logits", difference(blocks["rpn"].logits[level], golden[f"rpn_cls{level}"]), 1e-4)
        measure("RPN deltas", difference(blocks["rpn"].deltas[level], golden[f"rpn_reg{level}"]), 1e-4)


def test_semantic(recording: Recording, blocks: dict, measure: Measure) -> None:
    if "semantic_pred" not in recording.golden:
        assert blocks["semantic"] is None
        return
    assert list(blocks["semantic"].logits.shape) == recording.golden["semantic_pred.shape"].tolist()
    measure("semantic logits", difference(blocks["semantic"].logits, recording.golden["semantic_pred"]), 1e-4)
    measure("semantic feature", difference(blocks["semantic"].feature, recording.golden["semantic_feat"]), 1e-4)


@pytest.mark.parametrize("image", [0, 1])
def test_proposals(recording: Recording, blocks: dict, measure: Measure, image: int) -> None:
    golden = recording.golden[f"proposals{image}"]
    valid = blocks["proposals"].valid[image].numpy()
    assert valid.sum() == len(golden)
    boxes = blocks["proposals"].boxes[image].numpy()[valid]
    # Where two scores tie to the last bit but one, neighbours swap or a box makes room for its like.
    near = np.abs(boxes[:, None] - golden[None]).max(axis=2).min(axis=0) if len(golden) else np.zeros(1)
    measure("share of proposals without a match within 0.01 px", float((near > 0.01).mean()), 0.02)
    same = np.abs(boxes - golden).max(axis=1) <= 0.01
    scores = blocks["scores"][image].numpy()[valid]
    measure("proposal scores", float(np.abs(scores - recording.golden[f"proposal_scores{image}"])[same].max()), 1e-5)


def test_heads_on_fixed_rois(recording: Recording, blocks: dict, measure: Measure) -> None:
    model, golden = recording.model, recording.golden
    rois = golden["rois"]
    boxes = paddle.to_tensor(rois[:, 1:])
    number = paddle.to_tensor(np.bincount(rois[:, 0].astype(int), minlength=2).astype(np.int32))
    with paddle.no_grad():
        box_features = model.roi_heads.box_features(blocks["features"], boxes, number)
        mask_features = model.roi_heads.mask_features(blocks["features"], boxes, number)
        for stage in range(recording.stages):
            logits, deltas = model.bbox_head(box_features, stage)
            measure("class logits", difference(logits, golden[f"cls_score_stage{stage}"]), 1e-4)
            measure("box deltas", difference(deltas, golden[f"bbox_pred_stage{stage}"]), 1e-4)
            masks = model.mask_head(mask_features, stage)
            if f"mask_logits_stage{stage}.shape" in golden:
                assert list(masks.shape) == golden[f"mask_logits_stage{stage}.shape"].tolist()
            measure("mask logits", difference(masks, golden[f"mask_logits_stage{stage}"]), 1e-4)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    size = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = size[0] * size[1]
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def test_detections(recording: Recording, measure: Measure) -> None:
    golden = recording.golden
    with paddle.no_grad():
        inputs = {key: recording.inputs[key] for key in ("image", "im_shape", "scale_factor")}
        outputs = recording.model(inputs).to_host()
    begin = 0
    for image, count in enumerate(outputs["bbox_num"].tolist()):
        rows = outputs["bbox"][begin : begin + count]
        masks = outputs["mask"][begin : begin + count]
        begin += count
        height, width = (int(side) for side in golden[f"ori_shape{image}"])
        kinds = ("boxes", "scores", "labels", "mask_rles")
        recorded = list(zip(*(golden[f"det_{kind}{image}"] for kind in kinds)))
        assert count == len(recorded) > 0
        left, matched = set(range(count)), 0
        for box, score, label, counts in recorded:
            for place in sorted(left):
                same = rows[place, 0] == label and abs(rows[place, 1] - score) < 1e-3
                if same and box_iou(rows[place, 2:], box) > 0.99:
                    part = paste_box(masks[place], rows[place, 2:], height, width)
                    bitmap = coco_mask.encode(place_part(*part, height, width))
                    rle = {"size": [height, width], "counts": str(counts).encode()}
                    if bitmap == rle or coco_mask.iou([bitmap], [rle], [0])[0, 0] > 0.98:  # or: both may be empty
                        left.discard(place)
                        matched += 1
                        break
        measure("share of detections without a match", 1 - matched / len(recorded), 0.03)


@pytest.fixture
def training(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The model in training mode, its samplers taking everything."""
    model = recording.model
    for sampler in (model.rpn_head.rpn_target_assign, model.bbox_head.bbox_assigner):
        monkeypatch.setattr(sampler, "batch_size_per_im", EVERY)
        monkeypatch.setattr(sampler, "fg_fraction", 1.0)
    if getattr(model, "fused_semantic_head", None) is not None:
        monkeypatch.setattr(model.fused_semantic_head, "loss_over_all_pixels", True)
    model.train()
    yield model
    model.eval()
    model.clear_gradients()


def test_losses_and_gradients_on_the_recorded_proposals(
    recording: Recording, training: Any, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = recording.golden
    boxes = [golden["train_proposals0"], golden["train_proposals1"]]
    most = max(len(rows) for rows in boxes)
    valid = np.arange(most) < np.array([[len(rows)] for rows in boxes])
    proposals = Proposals(paddle.to_tensor(stacked(boxes, (most, 4))), paddle.to_tensor(valid))
    monkeypatch.setattr(training.rpn_head, "propose", lambda *_: (proposals, None))
    losses = training(recording.inputs)
    losses["loss"].backward()
    expected = recorded_losses(golden, recording.stages)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        measure("losses on the recorded proposals", relative(losses[name].item(), value), 1e-3)
    names = [key[len("grad_norm/") :] for key in golden if key.startswith("grad_norm/")]
    parameters = dict(training.named_parameters())
    rename = MMDetection().renamer(names)
    own = {name: rename(name) for name in names}
    assert set(own.values()) == {name for name, parameter in parameters.items() if not parameter.stop_gradient}
    for theirs, ours in own.items():
        norm = float(np.linalg.norm(parameters[ours].grad.numpy()))
        measure("gradient norms", relative(norm, float(golden[f"grad_norm/{theirs}"])), 1e-2)


@pytest.mark.slow
def test_losses_on_own_proposals(recording: Recording, training: Any, measure: Measure) -> None:
    with paddle.no_grad():
        losses = training(recording.inputs)
    for name, value in recorded_losses(recording.golden, recording.stages).items():
        measure("losses on the model's own proposals", relative(losses[name].item(), value), 5e-3)
