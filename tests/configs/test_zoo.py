"""Every configuration builds; its model has the tensors of the checkpoints that are made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.convert import convert_state, foreign_source
from ppdet.core.workspace import create, load_config, merge_config
from tests.full_models import outline

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("htc", "cascade_mask_rcnn", "mask_rcnn")
CONFIGS = [
    str(path.relative_to(ROOT / "configs"))
    for folder in FOLDERS
    for path in sorted((ROOT / "configs" / folder).rglob("*_coco.yml"))
]
CHECKPOINTS = {
    "htc/htc_r50_fpn_1x_coco.yml": "htc_r50_fpn",
    "htc/htc_without_semantic_r50_fpn_1x_coco.yml": "htc_without_semantic_r50_fpn",
    "htc/htc_r101_fpn_20e_coco.yml": "htc_r101_fpn",
    "htc/htc_x101_32x4d_fpn_20e_coco.yml": "htc_x101_32x4d_fpn",
    "htc/htc_x101_64x4d_fpn_20e_coco.yml": "htc_x101_64x4d_fpn",
    "htc/htc_x101_64x4d_fpn_dcn_c3_c5_mstrain_400_1400_20e_coco.yml": "htc_x101_64x4d_fpn_dcn",
    "cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml": "cascade_mask_rcnn_r50_fpn",
    "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml": "mask_rcnn_r50_fpn",
}
PADDLEDET = {
    "mask_rcnn/paddledet_mask_rcnn_r50_fpn_1x_coco.yml": "paddledet_mask_rcnn_r50_fpn_1x_coco",
    "cascade_mask_rcnn/paddledet_cascade_mask_rcnn_r50_fpn_1x_coco.yml": "paddledet_cascade_mask_rcnn_r50_fpn_1x_coco",
}
SMALL: dict[str, Any] = {
    "use_gpu": False,
    "pretrain_weights": None,
    "num_classes": 3,
    "semantic_num_classes": 5,
    "ResNet": {"depth": 18, "ch_in": 8, "freeze_at": -1, "norm_eval": False, "groups": 1, "base_width": 64},
    "FPN": {"out_channel": 16},
    "RPNHead": {
        "rpn_target_assign": {"batch_size_per_im": 32},
        "train_proposal": {"pre_nms_top_n": 100, "post_nms_top_n": 40},
        "test_proposal": {"pre_nms_top_n": 100, "post_nms_top_n": 20},
    },
    "BBoxAssigner": {"batch_size_per_im": 16},
    "HybridTaskCascadeTwoFCHead": {"out_channel": 16},
    "CascadeTwoFCHead": {"out_channel": 16},
    "TwoFCHead": {"out_channel": 16},
    "HybridTaskMaskFeat": {"out_channel": 16, "num_convs": 1},
    "MaskFeat": {"out_channel": 16, "num_convs": 1},
    "FusedSemanticHead": {"conv_out_channels": 16, "num_convs": 1},
}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a key list."""
    table = {}
    for line in path.read_text().splitlines():
        name, shape = line.split("\t")[:2]
        table[name] = tuple(int(side) for side in shape.split(",") if side.isdigit())
    return table


def load(name: str, **changes: Any) -> Any:
    """The configuration of that file, on the CPU and without pretrained weights."""
    paddle.set_device("cpu")
    config = load_config(str(ROOT / "configs" / name))
    return merge_config({"use_gpu": False, "pretrain_weights": None, **changes}, config)


def build(config: Any) -> Any:
    """The model of a configuration."""
    return create(config, config.architecture)


@pytest.mark.parametrize("name", CONFIGS)
def test_run_of_its_own(name: str) -> None:
    config = load(name)
    assert config.weights == f"output/{Path(name).stem}/model_final"
    milestones = {12: [8, 11], 20: [16, 19], 24: [16, 22]}
    assert config.LearningRate.schedulers[0].milestones == milestones[config.epoch]
    assert ("_1x_" in name, "_20e_" in name, "_2x_" in name) == tuple(config.epoch == n for n in (12, 20, 24))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_official_checkpoint_fills_the_model(name: str) -> None:
    keys = shapes(ROOT / "tests" / "parity" / "oracle" / "keys" / f"{CHECKPOINTS[name]}.tsv")
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in keys.items()}
    result = convert_state(outline(name[: -len(".yml")]), state)
    assert len(result.arrays) + len(result.left) == len(keys)
    assert set(result.left.values()) == {"a counter that nothing reads"}


@pytest.mark.parametrize("name", ["htc/htc_r101_fpn_20e_coco.yml", "htc/htc_x101_64x4d_fpn_20e_coco.yml"])
def test_pytorch_backbone_fills_the_backbone(name: str) -> None:
    keys = shapes(ROOT / "tests" / "parity" / "oracle" / "keys" / f"{CHECKPOINTS[name]}.tsv")
    backbone = {key.replace("backbone.", ""): shape for key, shape in keys.items() if key.startswith("backbone.")}
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in backbone.items()}
    state.update({"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)})
    source = foreign_source(state)
    assert source is not None
    result = source.convert(state)
    own = {key: shape for key, shape in outline(name[: -len(".yml")]).shapes().items() if key.startswith("backbone.")}
    assert {key: value.shape for key, value in result.arrays.items()} == own


@pytest.mark.parametrize("name", PADDLEDET)
def test_names_of_paddledetection(name: str) -> None:
    assert outline(name[: -len(".yml")]).shapes() == shapes(Path(__file__).parent / f"{PADDLEDET[name]}.tsv")


def batch(objects: int) -> dict[str, paddle.Tensor]:
    """Two images of different sizes, the second without an object."""
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 2, 64, 96), np.uint8)
    masks[0, 0, 10:40, 10:50] = masks[0, 1, 30:60, 40:90] = 1
    arrays = {
        "image": rng.normal(size=(2, 3, 64, 96)).astype(np.float32),
        "im_shape": np.array([[64, 96], [50, 70]], np.float32),
        "scale_factor": np.ones((2, 2), np.float32),
        "gt_bbox": np.array([[[10, 10, 50, 40], [40, 30, 90, 60]], np.zeros((2, 4))], np.float32),
        "gt_class": np.array([[2, 0], [0, 0]], np.int64),
        "gt_valid": np.array([[objects > 0, objects > 1], [0, 0]], np.int64),
        "gt_segm": masks,
        "semantic": np.where(masks[:, 0] > 0, 2, 4).astype(np.int64),
    }
    return {key: paddle.to_tensor(value) for key, value in arrays.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_small_twin_trains_and_predicts(name: str) -> None:
    changes = {**SMALL, "ResNet": {**SMALL["ResNet"], "dcn_v1_stages": [1] if "dcn" in name else [-1]}}
    paddle.seed(1)
    model = build(load(name, **changes))
    for objects in (2, 0):
        model.train()
        losses = model(batch(objects))
        losses["loss"].backward()
        values = {key: value.item() for key, value in losses.items()}
        assert all(np.isfinite(value) for value in values.values()), values
        assert sum(value for key, value in values.items() if key != "loss") == pytest.approx(values["loss"], rel=1e-5)
        masks = [value for key, value in values.items() if "mask" in key]
        assert masks and all((value > 0) == (objects > 0) for value in masks)
        assert all(parameter.grad is not None for parameter in model.parameters() if not parameter.stop_gradient)
        model.clear_gradients()
    model.eval()
    with paddle.no_grad():
        outputs = model(batch(0)).to_outputs()
    count = int(outputs["bbox_num"].sum())
    assert outputs["bbox"].shape == [count, 6] and outputs["mask"].shape == [count, 28, 28]


@pytest.mark.parametrize("name", ["htc/htc_r50_fpn_1x_coco.yml", *list(CHECKPOINTS)[-2:], *PADDLEDET])
def test_no_detection(name: str) -> None:
    nothing = {"BBoxPostProcess": {"nms": {"score_threshold": 1.0}}}
    model = build(load(name, **SMALL, **nothing))
    model.eval()
    with paddle.no_grad():
        outputs = model(batch(0)).to_outputs()
    assert outputs["bbox_num"].tolist() == [0, 0]
    assert outputs["bbox"].shape == [0, 6] and outputs["mask"].shape == [0, 28, 28]


@pytest.mark.parametrize("name", ["mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml", *PADDLEDET])
def test_boxes_only(name: str) -> None:
    architecture = load(name).architecture
    model = build(load(name, **SMALL, **{architecture: {"mask_head": None}}))
    losses = model(batch(2))
    assert not any("mask" in key for key in losses)
    model.eval()
    with paddle.no_grad():
        assert list(model(batch(0)).to_outputs()) == ["bbox", "bbox_num"] == list(model.output_names)
