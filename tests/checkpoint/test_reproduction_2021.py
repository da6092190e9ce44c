"""The 2021 Paddle reproduction's checkpoint, by its own names, fills the HTC of the configuration as it is."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.convert import convert_state
from ppdet.checkpoint.names.reproduction_2021 import Reproduction2021
from ppdet.checkpoint.source import find_source
from ppdet.checkpoint.weights import load_pretrained, load_weights, read_state, write_state
from ppdet.utils.errors import UserError
from tests.full_models import full_model

NAMES = Path(__file__).with_name("reproduction_2021.tsv")
DELTA = "bbox_head.bbox_delta_stage2"


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    """The checkpoint's tensors: every one has its own number, the third stage's deltas have random ones."""
    state = {}
    for number, line in enumerate(NAMES.read_text(encoding="utf-8").splitlines()):
        name, sides = line.split("\t")[:2]
        state[name] = np.full([int(side) for side in sides.split(",")], number, np.float32)
    generator = np.random.default_rng(0)
    for kind in ("weight", "bias"):
        name = f"{DELTA}.{kind}"
        state[name] = generator.standard_normal(state[name].shape).astype(np.float32)
    return state


@pytest.fixture(scope="module")
def model() -> paddle.nn.Layer:
    """HTC R-50 with the official stds."""
    return full_model("htc/htc_r50_fpn_1x_coco")


def is_published(names: Collection[str]) -> bool:
    return isinstance(find_source(names), Reproduction2021)


def write_21(state: dict[str, np.ndarray], stem: Path) -> None:
    """Write as Paddle 2.1 did: each value with the name of its tensor."""
    content = {name: (f"tensor_{number}", value) for number, (name, value) in enumerate(state.items())}
    stem.with_suffix(".pdparams").write_bytes(pickle.dumps(content, 2))


@pytest.mark.parametrize(("write", "load"), [(write_21, load_weights), (write_state, load_pretrained)])
def test_every_tensor_arrives(
    write: object,
    load: object,
    model: paddle.nn.Layer,
    published: dict[str, np.ndarray],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert len(published) == 373 and is_published(published)
    assert callable(write) and callable(load)
    write(published, tmp_path / "model_final")
    for tensor in model.state_dict().values():
        tensor.set_value(np.full(tensor.shape, -1, np.float32))
    caplog.set_level("INFO")
    load(model, tmp_path / "model_final")
    loaded = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, source in {
        "neck.fpn_inner_res5_sum.weight": "neck.lateral_convs.3.conv.weight",
        "neck.fpn_inner_res2_sum_lateral.bias": "neck.lateral_convs.0.conv.bias",
        "neck.fpn_res3_sum.weight": "neck.fpn_convs.1.conv.weight",
        "mask_head.head.2.conv_res.conv.weight": "bbox_head.mask_head.head.2.conv_res.conv.weight",
        "bbox_head.bbox_delta_stage1.weight": "bbox_head.bbox_delta_stage1.weight",
        "backbone.res4.res4f.branch2c.norm._variance": "backbone.res4.res4f.branch2c.norm._variance",
    }.items():
        np.testing.assert_array_equal(loaded[name], published[source])
    assert not any((array == -1).all() for array in loaded.values())
    assert "2021 Paddle reproduction's: names mapped, deltas of stage 3 rescaled" in caplog.text
    assert "not used" not in caplog.text and (
        "loaded 373 tensors" in caplog.text or "loaded 373 of 373 tensors" in caplog.text
    )
    # stds 1/30, 1/30, 1/15, 1/15 there; .033, .033, .067, .067 here
    factors = [1.01010101, 1.01010101, 0.99502488, 0.99502488]
    np.testing.assert_allclose(loaded[f"{DELTA}.bias"], published[f"{DELTA}.bias"] * factors, rtol=1e-6)
    np.testing.assert_allclose(loaded[f"{DELTA}.weight"], published[f"{DELTA}.weight"] * factors, rtol=1e-6)


def test_refined_boxes_are_the_reproductions(model: paddle.nn.Layer, published: dict[str, np.ndarray]) -> None:
    feature = np.random.default_rng(1).standard_normal((5, 1024)).astype(np.float32)
    theirs = feature @ published[f"{DELTA}.weight"] + published[f"{DELTA}.bias"]
    arrays = convert_state(model, published).arrays
    ours = feature @ arrays[f"{DELTA}.weight"] + arrays[f"{DELTA}.bias"]
    stds = np.array(model.bbox_head.bbox_stds[2])
    np.testing.assert_allclose(ours * stds, theirs / np.array([30, 30, 15, 15]), rtol=1e-4, atol=1e-6)


def test_its_own_stds_change_nothing(published: dict[str, np.ndarray]) -> None:
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [1 / 30, 1 / 30, 1 / 15, 1 / 15]]
    other = full_model("htc/htc_r50_fpn_1x_coco", HybridTaskCascadeHead={"bbox_stds": stds})
    arrays = convert_state(other, published).arrays
    np.testing.assert_array_equal(arrays[f"{DELTA}.weight"], published[f"{DELTA}.weight"])


def test_what_does_not_fit_is_one_line(
    model: paddle.nn.Layer, published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    less = {name: value for name, value in published.items() if name != "bbox_head.mask_head.head.0.upsample.bias"}
    write_state(less, tmp_path / "less")
    with pytest.raises(UserError, match=r"less.* lacks mask_head\.head\.0\.upsample\.bias;"):
        load_weights(model, tmp_path / "less")
    write_state(published, tmp_path / "whole")
    with pytest.raises(UserError, match=r"whole.* of three stages; this model is another one"):
        load_weights(paddle.nn.Linear(2, 2), tmp_path / "whole")
    write_state(read_state(tmp_path / "whole"), tmp_path / "again")
    assert is_published(read_state(tmp_path / "again"))
