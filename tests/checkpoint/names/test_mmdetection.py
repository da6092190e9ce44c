"""Every official key list against the model of the configuration that it belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.names.mmdetection import MMDetection
from ppdet.core.workspace import create, load_config
from tests.full_models import outline

ZOO = {
    "htc_r50_fpn": "htc/htc_r50_fpn_1x_coco",
    "htc_without_semantic_r50_fpn": "htc/htc_without_semantic_r50_fpn_1x_coco",
    "htc_r101_fpn": "htc/htc_r101_fpn_20e_coco",
    "htc_x101_32x4d_fpn": "htc/htc_x101_32x4d_fpn_20e_coco",
    "htc_x101_64x4d_fpn": "htc/htc_x101_64x4d_fpn_20e_coco",
    "htc_x101_64x4d_fpn_dcn": "htc/htc_x101_64x4d_fpn_dcn_c3_c5_mstrain_400_1400_20e_coco",
    "cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco",
    "mask_rcnn_r50_fpn": "mask_rcnn/mask_rcnn_r50_fpn_1x_coco",
}


def zeros(keys: Path) -> dict[str, np.ndarray]:
    """The tensors of a key list, in the memory of one number."""
    state = {}
    for line in keys.read_text(encoding="utf-8").splitlines():
        name, shape = line.split("\t")[:2]
        sides = [int(side) for side in shape.split(",") if side.isdigit()]
        state[name] = np.broadcast_to(np.float32(0), sides)
    return state


def own_name(name: str, depth: int = 1) -> str | None:
    """Name of one tensor in this project, in a network with that many blocks in its third stage."""
    return MMDetection().renamer([f"backbone.layer3.{index}.conv1.weight" for index in range(depth)])(name)


@pytest.mark.parametrize("name", ZOO)
def test_key_list_fills_its_model(name: str, oracle: Path) -> None:
    state = zeros(oracle / "keys" / f"{name}.tsv")
    result = MMDetection().convert(state)
    assert {own: array.shape for own, array in result.arrays.items()} == outline(ZOO[name]).shapes()
    assert len(result.sources) + len(result.left) == len(state)
    assert all(source.endswith(".num_batches_tracked") for source in result.left)


@pytest.mark.parametrize("dcn", ["v1", "v2"])
def test_deformable_convolutions(dcn: str, repo_root: Path) -> None:
    paddle.set_device("cpu")
    config = load_config(str(repo_root / "configs" / f"{ZOO['htc_r50_fpn']}.yml"))
    backbone = create(config, "ResNet", **{f"dcn_{dcn}_stages": [1]})
    own = own_name("backbone.layer2.3.conv2.conv_offset.weight")
    assert own == "backbone.res3.res3d.branch2b.conv_offset.weight"
    offsets = backbone.state_dict()[own[len("backbone.") :]]
    assert offsets.shape == [18 if dcn == "v1" else 27, 128, 3, 3]


def test_long_fourth_stage_is_numbered_otherwise() -> None:
    name = "backbone.layer3.5.bn2.running_var"
    assert own_name(name, 6) == "backbone.res4.res4f.branch2b.norm._variance"
    assert own_name(name, 23) == "backbone.res4.res4b5.branch2b.norm._variance"
    assert own_name("backbone.layer3.0.downsample.1.bias", 23) == "backbone.res4.res4a.short.norm.bias"


@pytest.mark.parametrize(
    "name",
    [
        "backbone.bn1.num_batches_tracked",
        "backbone.bn1.weight_v",
        "backbone.layer1.0.bn2.scale",
        "backbone.layer1.0.downsample.2.weight",
        "backbone.layer1.0.conv4.weight",
        "backbone.layer1.0.bn2.conv_offset.weight",
        "backbone.stem.0.weight",
        "rpn_head",
        "",
    ],
)
def test_what_has_no_counterpart(name: str) -> None:
    assert own_name(name) is None


def test_layout_of_fully_connected_layers() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = MMDetection().values(None, True)
    assert value("roi_head.bbox_head.fc_cls.weight", weight).tolist() == [[0, 3], [1, 4], [2, 5]]
    kernel = np.zeros((2, 3, 1, 1), np.float32)
    assert value("backbone.conv1.weight", kernel) is kernel
