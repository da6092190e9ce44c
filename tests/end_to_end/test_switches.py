"""Every switch of the model in training and prediction, and the batches that break other implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import create, load_config, merge_config
from ppdet.engine.trainer import Trainer
from ppdet.utils.cli import parse_overrides
from tests.end_to_end.conftest import Workplace

SWITCHES = {
    "everything": [],
    "no semantic": ["HybridTaskCascade.fused_semantic_head=null"],
    "no mask": ["HybridTaskCascade.mask_head=null"],
    "not interleaved": ["HybridTaskCascadeHead.interleaved=false"],
    "no flow": ["HybridTaskMaskHead.mask_info_flow=false"],
    "fusion none": ["HybridTaskCascadeHead.semantic_fusion=[]"],
    "fusion box": ["HybridTaskCascadeHead.semantic_fusion=[bbox]"],
    "fusion mask": ["HybridTaskCascadeHead.semantic_fusion=[mask]"],
    "one class": ["num_classes=1"],
    "agnostic masks": ["HybridTaskMaskHead.class_agnostic=true"],
    "class boxes": ["HybridTaskCascadeHead.reg_class_agnostic=false"],
    "one stage": ["num_cascade_stages=1"],
    "four stages": [
        "num_cascade_stages=4",
        "BBoxAssigner.cascade_iou=[0.5,0.6,0.65,0.7]",
        "HybridTaskCascadeHead.stage_loss_weights=[1,0.5,0.25,0.25]",
        "HybridTaskCascadeHead.bbox_stds=[[0.1,0.1,0.2,0.2],[0.05,0.05,0.1,0.1],[0.033,0.033,0.067,0.067],"
        "[0.033,0.033,0.067,0.067]]",
    ],
    "group norm": ["norm_type=gn"],
    "deformable": ["ResNet.dcn_v1_stages=[1,2,3]"],
    "deformable v2": ["ResNet.dcn_v2_stages=[1,2,3]"],
    "cascade mask rcnn": [
        "HybridTaskCascade.fused_semantic_head=null",
        "HybridTaskCascadeHead.interleaved=false",
        "HybridTaskMaskHead.mask_info_flow=false",
        "BBoxAssigner.allow_low_quality=false",
    ],
}


def build(workplace: Workplace, options: list[str]) -> Any:
    paddle.seed(1)
    config = load_config(str(workplace.config))
    merge_config(parse_overrides(options), config)
    return create(config, config.architecture)


def batch(counts: list[int], classes: int = 6, height: int = 64, width: int = 96) -> dict[str, paddle.Tensor]:
    """Images of different sizes with so many objects each; masks fill the boxes."""
    rng = np.random.default_rng(0)
    size, slots = len(counts), max(1, *counts)
    shapes = np.array([[height - 8 * (i % 2), width - 16 * (i % 3)] for i in range(size)], np.float32)
    boxes, labels = np.zeros((size, slots, 4), np.float32), np.zeros((size, slots), np.int64)
    valid, masks = np.zeros((size, slots), np.float32), np.zeros((size, slots, height, width), np.uint8)
    semantic = np.full((size, height, width), 255, np.uint8)
    for image, count in enumerate(counts):
        for place in range(count):
            x, y = rng.integers(0, width // 3), rng.integers(0, height // 3)
            w, h = rng.integers(8, width // 3), rng.integers(8, height // 3)
            boxes[image, place] = [x, y, x + w, y + h]
            labels[image, place], valid[image, place] = rng.integers(classes), 1
            masks[image, place, y : y + h, x : x + w] = 1
            semantic[image, y : y + h, x : x + w] = labels[image, place]
    arrays = {
        "image": rng.normal(size=(size, 3, height, width)).astype(np.float32),
        "im_shape": shapes,
        "scale_factor": np.full((size, 2), 0.5, np.float32),
        "gt_bbox": boxes,
        "gt_class": labels,
        "gt_valid": valid,
        "gt_segm": masks,
        "semantic": semantic,
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def check_training(model: Any, inputs: dict[str, paddle.Tensor]) -> dict[str, float]:
    """One step: finite losses that sum up, and a finite gradient for every parameter that trains."""
    model.train()
    losses = model(inputs)
    losses["loss"].backward()
    values = {name: float(loss) for name, loss in losses.items()}
    assert all(np.isfinite(value) and value >= 0 for value in values.values()), values
    parts = sum(value for name, value in values.items() if name != "loss")
    assert values["loss"] == pytest.approx(parts, rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.trainable:
            assert parameter.grad is not None, name
            assert bool(paddle.isfinite(parameter.grad).all()), name
    model.clear_gradients()
    return values


def check_prediction(model: Any, inputs: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    model.eval()
    with paddle.no_grad():
        found: dict[str, np.ndarray] = model(inputs).to_host()
    assert found["bbox"].shape == (found["bbox_num"].sum(), 6)
    assert len(found["bbox_num"]) == inputs["image"].shape[0]
    if "mask" in found:
        assert found["mask"].shape == (len(found["bbox"]), 28, 28)
        assert ((found["mask"] >= 0) & (found["mask"] <= 1)).all()
    return found


@pytest.mark.parametrize("name", SWITCHES)
def test_switch(workplace: Workplace, name: str) -> None:
    model = build(workplace, SWITCHES[name])
    classes = 1 if name == "one class" else 6
    # every parameter has its gradient also without objects: processes that exchange gradients wait for all of them
    check_training(model, batch([0, 0], classes))
    losses = check_training(model, batch([3, 1], classes))
    stages = {"one stage": 1, "four stages": 4}.get(name, 3)
    assert {key for key in losses if key.startswith("loss_bbox_cls")} == {
        f"loss_bbox_cls_stage{stage}" for stage in range(stages)
    }
    assert ("loss_mask_stage0" in losses) == (name != "no mask")
    assert ("loss_semantic" in losses) == (name not in ("no semantic", "cascade mask rcnn"))
    found = check_prediction(model, batch([0, 0], classes))
    assert ("mask" in found) == (name != "no mask")
    assert (found["bbox"][:, 0] < classes).all()
    assert any("conv_res" in key for key in model.state_dict()) == (
        name not in ("no mask", "no flow", "one stage", "cascade mask rcnn")
    )


def test_sync_bn_on_a_cpu_is_batch_normalisation(workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    plain = build(workplace, ["norm_type=bn"])
    config = load_config(str(workplace.config))
    model = Trainer(merge_config(parse_overrides(["norm_type=sync_bn"]), config)).model
    assert "SyncBN does not exist on the CPU: every process normalises by its own batch" in capsys.readouterr().out
    assert not any(isinstance(layer, paddle.nn.SyncBatchNorm) for layer in model.sublayers())
    assert list(model.state_dict()) == list(plain.state_dict())
    model.set_state_dict(plain.state_dict())
    mean = plain.backbone.conv1.conv1.norm._mean.numpy()
    paddle.seed(2)
    losses = check_training(model, batch([3, 1]))
    paddle.seed(2)
    assert losses == pytest.approx(check_training(plain, batch([3, 1])), rel=1e-5)
    assert np.abs(model.backbone.conv1.conv1.norm._mean.numpy() - mean).max() > 0, "statistics are gathered"


def test_no_object_in_the_batch(workplace: Workplace) -> None:
    losses = check_training(build(workplace, []), batch([0, 0]))
    assert losses["loss_rpn_reg"] == 0 and losses["loss_bbox_reg_stage0"] == 0
    assert losses["loss_mask_stage0"] == 0 and losses["loss_semantic"] == 0
    assert losses["loss_rpn_cls"] > 0 and losses["loss_bbox_cls_stage0"] > 0


def test_no_positive_beyond_the_ground_truth(workplace: Workplace) -> None:
    """No candidate overlaps an object of one pixel: the ground truth itself is the only positive."""
    inputs = batch([1])
    inputs["gt_bbox"] = paddle.to_tensor([[[10.0, 10.0, 11.0, 11.0]]])
    check_training(build(workplace, []), inputs)


def test_three_hundred_objects(workplace: Workplace) -> None:
    check_training(build(workplace, []), batch([300]))


def test_very_wide_picture(workplace: Workplace) -> None:
    inputs = batch([1], height=32, width=512)
    check_training(build(workplace, []), inputs)
    check_prediction(build(workplace, []), inputs)


def test_no_detection(workplace: Workplace) -> None:
    model = build(workplace, ["BBoxPostProcess.nms={name: MultiClassNMS, score_threshold: 0.999}"])
    found = check_prediction(model, batch([0, 0]))
    assert found["bbox_num"].tolist() == [0, 0] and len(found["bbox"]) == 0 and len(found["mask"]) == 0


def test_a_batch_equals_its_images(workplace: Workplace) -> None:
    """Images of different sizes in one batch: each gets the detections that it gets alone."""
    model = build(workplace, [])
    inputs = batch([0, 0, 0])
    inputs["scale_factor"] = paddle.to_tensor([[0.5, 0.5], [0.25, 0.5], [2.0, 1.0]])
    together = check_prediction(model, inputs)
    begin = 0
    for image in range(3):
        alone = check_prediction(model, {name: value[image : image + 1] for name, value in inputs.items()})
        end = begin + together["bbox_num"][image]
        assert alone["bbox_num"][0] == end - begin > 0
        np.testing.assert_allclose(together["bbox"][begin:end], alone["bbox"], rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(together["mask"][begin:end], alone["mask"], atol=1e-3)
        begin = end
