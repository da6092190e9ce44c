"""Which head runs on which RoIs, in which order; and what a new composition of parts costs."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppdet.core.registry import class_info, registered_names
from ppdet.modeling.heads.cascade_head import CascadeHead
from ppdet.modeling.heads.hybrid_task_cascade_head import HybridTaskCascadeHead
from ppdet.modeling.roi_heads import CascadeRoIHeads, HybridTaskCascadeRoIHeads, StandardRoIHeads
from ppdet.structures.features import Features
from tests.configs.test_zoo import SMALL, batch, build, load

MASK_RCNN = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml"
CASCADE = "cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml"
HTC = "htc/htc_r50_fpn_1x_coco.yml"
WITHOUT_NECK: dict[str, Any] = {
    "MaskRCNN": {"neck": None},
    "ResNet": {**SMALL["ResNet"], "return_idx": [2], "num_stages": 3},
    "RPNHead": {
        **SMALL["RPNHead"],
        "anchor_generator": {"strides": [16], "anchor_sizes": [[8, 16, 32, 64, 128]]},
    },
}


def small(name: str, **changes: Any) -> Any:
    paddle.seed(1)
    return build(load(name, **{**SMALL, **changes}))


def test_the_box_head_chooses() -> None:
    assert type(small(MASK_RCNN).roi_heads) is StandardRoIHeads
    assert type(small(CASCADE).roi_heads) is CascadeRoIHeads
    assert type(small(HTC).roi_heads) is HybridTaskCascadeRoIHeads
    assert type(small(HTC, HybridTaskCascade={"bbox_head": "CascadeHead"}).roi_heads) is CascadeRoIHeads
    assert issubclass(HybridTaskCascadeHead, CascadeHead) and issubclass(HybridTaskCascadeRoIHeads, CascadeRoIHeads)


def test_keys_of_htc_belong_to_its_head_alone() -> None:
    plain, htc = (set(class_info(name).parameters) for name in ("CascadeHead", "HybridTaskCascadeHead"))
    assert htc - plain == {"semantic_roi_extractor", "interleaved", "semantic_fusion"} and plain <= htc


def trained_rois(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """Stage and boxes of each call of the mask head in one training step."""
    calls: list[tuple[int, Tensor]] = []
    run = model.mask_head.loss
    monkeypatch.setattr(
        model.mask_head,
        "loss",
        lambda x, rois, masks, stage: calls.append((stage, rois.boxes)) or run(x, rois, masks, stage),
    )
    model.train()
    model(batch(2))
    return calls


def sampled_boxes(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Boxes of the positives of each call of the box head's assigner, filled in by a training step."""
    sampled: list[Tensor] = []
    run = model.bbox_head.bbox_assigner

    def assign(*arguments: Any) -> Any:
        rois = run(*arguments)
        sampled.append(rois.positives_only().boxes)
        return rois

    monkeypatch.setattr(model.bbox_head, "bbox_assigner", assign)
    return sampled


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (MASK_RCNN, {}, [(0, 0)]),
        (CASCADE, {}, [(0, 0), (1, 1), (2, 2)]),
        (CASCADE, {"CascadeRCNN": {"mask_head": "MaskHead"}}, [(0, 0)]),
        (HTC, {}, [(0, 1), (1, 3), (2, 5)]),
        (HTC, {"HybridTaskCascadeHead": {"interleaved": False}}, [(0, 0), (1, 1), (2, 2)]),
        (HTC, {"HybridTaskCascade": {"mask_head": "MaskHead"}}, [(0, 0)]),
    ],
    ids=["one stage", "cascade", "cascade, one network", "HTC", "HTC, not interleaved", "HTC, one network"],
)
def test_masks_train_on(
    name: str, changes: dict[str, Any], expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage of each mask loss, and which of the step's draws of RoIs it sees: with interleaving every second one."""
    model = small(name, **changes)
    sampled = sampled_boxes(model, monkeypatch)
    calls = trained_rois(model, monkeypatch)
    assert [stage for stage, _ in calls] == [stage for stage, _ in expected]
    assert len(sampled) == (6 if expected[-1][1] == 5 else 1 if name == MASK_RCNN else 3)
    for (_, boxes), (_, draw) in zip(calls, expected):
        np.testing.assert_array_equal(boxes.numpy(), sampled[draw].numpy())


@pytest.mark.parametrize("objects", [2, 0])
def test_one_map_without_neck(objects: int) -> None:
    """Every parameter of a model without neck trains, whatever is in the images; five sizes times three ratios."""
    model = small(MASK_RCNN, **WITHOUT_NECK)
    assert model.neck is None and not any(name.startswith("neck") for name in model.state_dict())
    assert model.rpn_head.rpn_rois_score.weight.shape == [15, 32, 1, 1]
    assert model.bbox_head.head.fc6.weight.shape == [32 * 7 * 7, 16]
    model.train()
    model(batch(objects))["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if not parameter.stop_gradient)


class SharedRes5(StandardRoIHeads):
    """RoI features of both branches go through one shared layer, as res5 of a C4 model does."""

    def __init__(self, bbox_head: Any, mask_head: Any = None, semantic_head: Any = None) -> None:
        super().__init__(bbox_head, mask_head, semantic_head)
        self.shared = bbox_head.res5

    def box_features(self, features: Features, boxes: Tensor, rois_num: Tensor) -> Tensor:
        return self.shared(self.box_pooler(features, boxes, rois_num))

    def mask_features(self, features: Features, boxes: Tensor, rois_num: Tensor) -> Tensor:
        return self.shared(self.mask_pooler(features, boxes, rois_num))


def test_a_head_shared_by_both_branches_is_one_class() -> None:
    model = small(MASK_RCNN, **WITHOUT_NECK)
    model.bbox_head.res5 = nn.Conv2D(32, 32, 3, padding=1)
    model.roi_heads = SharedRes5(model.bbox_head, model.mask_head)
    model.train()
    losses, gradients = model(batch(2)), []
    for name in ("loss_bbox_cls", "loss_mask"):
        losses[name].backward(retain_graph=True)
        gradients.append(float(model.bbox_head.res5.weight.grad.abs().sum()))
        model.clear_gradients()
    assert min(gradients) > 0


def test_constructors_with_many_arguments_take_keywords_only() -> None:
    """Of all classes in ppdet.modeling that a configuration can name."""
    checked = 0
    for name in registered_names():
        info = class_info(name)
        if info.cls.__module__.startswith("ppdet.modeling.") and len(info.parameters) > 5:
            kinds = {parameter.kind for parameter in info.parameters.values()}
            assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name
            checked += 1
    assert checked >= 13
