"""Names and layouts of other implementations: every tensor accounted for, on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import create, load_config, merge_config
from ppdet.engine.convert import compare_states, convert_state, from_official, from_reproduction, is_reproduction
from ppdet.utils.errors import UserError

SMALL = {"use_gpu": False, "pretrain_weights": None}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a key list."""
    table = {}
    for line in path.read_text().splitlines():
        name, _, shape = line.partition("\t")
        table[name] = tuple(int(side) for side in shape.split("\t")[0].split(",") if side.isdigit())
    return table


@pytest.fixture(scope="module")
def model(repo_root: Path) -> paddle.nn.Layer:
    """HTC R-50 of 80 classes."""
    paddle.set_device("cpu")
    config = load_config(str(repo_root / "configs/htc/htc_r50_fpn_1x_coco.yml"))
    merge_config(SMALL)
    return create(config.architecture)


@pytest.fixture(scope="module")
def official(oracle: Path) -> dict[str, np.ndarray]:
    """An official checkpoint of zeros."""
    keys = shapes(oracle / "keys" / "htc_r50_fpn.tsv")
    return {name: np.zeros(shape, np.float32) for name, shape in keys.items()}


def test_official_checkpoint(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    marked = dict(official)
    name = "roi_head.bbox_head.1.fc_cls.weight"
    marked[name] = np.arange(81 * 1024, dtype=np.float32).reshape(81, 1024)
    marked["ema_steps"] = np.zeros((), np.int64)
    result = convert_state(model, {f"module.{key}": value for key, value in marked.items()})
    assert list(result.arrays) == list(model.state_dict())
    assert result.arrays["bbox_head.bbox_score_stage1.weight"][5, 7] == 7 * 1024 + 5
    assert result.sources["bbox_head.bbox_score_stage1.weight"] == f"module.{name}"
    assert len(result.sources) + len(result.left) == len(marked)
    assert result.left.pop("module.ema_steps") == "no counterpart in this project"
    assert all(key.endswith("num_batches_tracked") for key in result.left) and len(result.left) == 53


def test_what_does_not_fit_is_named(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    less = {name: value for name, value in official.items() if name != "neck.fpn_convs.2.conv.bias"}
    with pytest.raises(UserError, match=r"lacks neck\.fpn_res4_sum\.bias;"):
        convert_state(model, less)
    other = {**official, "roi_head.mask_head.0.conv_logits.bias": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"mask_head\.head\.0\.conv_logits\.bias \[3\] instead of \[80\]"):
        convert_state(model, other)
    with pytest.raises(UserError, match=r"mmdetection 1\.x"):
        convert_state(model, {name.replace("roi_head.", ""): value for name, value in official.items()})
    deeper = {**official, "backbone.layer3.6.conv1.weight": np.zeros((256, 1024, 1, 1), np.float32)}
    assert convert_state(model, deeper).left["backbone.layer3.6.conv1.weight"].startswith("this model has no ")


def test_torchvision_backbone(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    backbone = {key[len("backbone.") :]: value for key, value in official.items() if key.startswith("backbone.")}
    result = from_official({**backbone, "fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)})
    assert set(result.arrays) == {name for name in model.state_dict() if name.startswith("backbone.")}
    assert {name for name, reason in result.left.items() if "a counter" not in reason} == {"fc.weight", "fc.bias"}


def reproduction_names(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """The reproduction's checkpoint: this model's tensors under its names."""
    names = {"inner_res5_sum": "lateral_convs.3.conv"}
    for level in (2, 3, 4):
        names[f"inner_res{level}_sum_lateral"] = f"lateral_convs.{level - 2}.conv"
    for level in (2, 3, 4, 5):
        names[f"res{level}_sum"] = f"fpn_convs.{level - 2}.conv"
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("neck."):
            owner, _, kind = name[len("neck.fpn_") :].rpartition(".")
            name = f"neck.{names[owner]}.{kind}"
        if name.startswith("mask_head."):
            name = f"bbox_head.{name}"
        state[name] = np.ones(tensor.shape, np.float32)
    return state


def test_reproduction_of_2021(model: paddle.nn.Layer) -> None:
    state = reproduction_names(model)
    assert len(state) == 373 and is_reproduction(state)
    result = from_reproduction(state, model.bbox_head.bbox_stds[2])
    assert set(result.arrays) == set(model.state_dict())
    bias = result.arrays["bbox_head.bbox_delta_stage2.bias"]
    np.testing.assert_allclose(bias, [1.010101, 1.010101, 0.995025, 0.995025], atol=1e-6)
    np.testing.assert_array_equal(result.arrays["bbox_head.bbox_delta_stage2.weight"], np.tile(bias, (1024, 1)))
    assert (result.arrays["bbox_head.bbox_delta_stage1.weight"] == 1).all()
    assert not is_reproduction(result.arrays)


def test_names_of_the_reproduction(model: paddle.nn.Layer, oracle: Path) -> None:
    listed = oracle.parents[1] / "engine" / "reproduction_2021.tsv"
    expected = shapes(listed)
    assert {name: value.shape for name, value in reproduction_names(model).items()} == expected


def test_comparison() -> None:
    one = {"a": np.array([1.0, np.nan]), "b": np.zeros(2), "c": np.zeros(2), "e": np.zeros(0)}
    other = {"a": np.array([1.0, np.nan]), "b": np.array([0.0, 0.5]), "c": np.zeros((2, 1)), "d": np.zeros(1)}
    assert compare_states(one, one) == []
    assert compare_states(one, other, 0.1) == [
        "b differs by up to 0.5",
        "c has shape [2] and [2, 1]",
        "e is in the first only",
        "d is in the second only",
    ]
    assert compare_states({"b": one["b"]}, {"b": other["b"]}, 0.5) == []
    assert compare_states({"b": one["b"]}, {"b": np.array([0.0, np.nan])}, 9.0) == ["b differs by up to nan"]
