"""Loading weights by name and shape."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.checkpoint.weights import (
    array_fingerprint,
    find_weights,
    load_pretrained,
    load_weights,
    read_state,
    read_weights,
    state_arrays,
    write_state,
)
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError


class Head(nn.Layer):
    """K + 1 scores and 4 K deltas."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bbox_score = nn.Linear(5, classes + 1)
        self.bbox_delta = nn.Linear(5, 4 * classes)


class Model(nn.Layer):
    """Backbone, neck, head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1D(5))
        self.neck = nn.Linear(5, 5)
        self.bbox_head = Head(classes)


def _dump(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content, 2))
    return path


def _same(first: nn.Layer, second: nn.Layer, part: str = "") -> bool:
    ours, theirs = state_arrays(first), state_arrays(second)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours if name.startswith(part))


def test_round_trip_and_twin(tmp_path: Path) -> None:
    source, target = Model(), Model()
    write_state(state_arrays(source), tmp_path / "m")
    assert sorted(os.listdir(tmp_path)) == ["m.pdparams", "m.safetensors"]
    for name in ("m", "m.pdparams", "m.safetensors"):
        assert array_fingerprint(read_state(tmp_path / name)) == array_fingerprint(state_arrays(source))
    assert not _same(source, target)
    load_weights(target, tmp_path / "m")
    assert _same(source, target)
    # Paddle itself reads the file
    third = Model()
    third.set_state_dict(paddle.load(str(tmp_path / "m.pdparams")))
    assert _same(source, third)


def test_classes_travel_with_the_weights(tmp_path: Path) -> None:
    source, classes = Model(), Categories(("鱼", "star", "cup"), (3, 7, 9))
    write_state(state_arrays(source), tmp_path / "m", classes)
    for name in ("m.pdparams", "m.safetensors"):
        content = read_weights(tmp_path / name)
        assert content.categories == classes and set(content.arrays) == set(state_arrays(source))
        assert load_weights(Model(), tmp_path / name).categories == classes
    # Paddle reads the file as before, with one array more, which no parameter has the name of
    loaded = paddle.load(str(tmp_path / "m.pdparams"))
    missing, unexpected = (target := Model()).set_state_dict(loaded)
    assert (missing, unexpected) == ([], ["Categories@@"]) and _same(source, target)
    assert bytes(loaded["Categories@@"]).decode() == classes.to_json()
    write_state(state_arrays(source), tmp_path / "m")
    assert load_weights(Model(), tmp_path / "m").categories is None


def test_damaged_and_contradicting_records(tmp_path: Path) -> None:
    arrays = state_arrays(Model())
    for record in (np.zeros(3, np.uint8), np.zeros(3, np.float32), "fish", {"a": 1}):
        file = _dump(tmp_path / "bad.pdparams", {**arrays, "Categories@@": record})
        with pytest.raises(UserError, match="bad.pdparams has a damaged record of its class names"):
            read_weights(file)
    write_state(arrays, tmp_path / "two", Categories(("fish", "star"), (1, 2)))
    with pytest.raises(UserError, match="two.safetensors is damaged: it names 2 classes, its tensors are for 3"):
        load_weights(Model(), tmp_path / "two")


def test_classifiers_of_other_classes_are_not_a_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = Model(), Model()
    write_state(state_arrays(source), tmp_path / "m", Categories(("fish", "star", "cup"), (1, 2, 3)))
    before = state_arrays(target)
    load_pretrained(target, tmp_path / "m", Categories(("fish", "cup", "cat"), (1, 2, 3)))
    after = state_arrays(target)
    assert _same(source, target, "neck.") and "only in the training set: cat" in caplog.text
    for name in ("bbox_head.bbox_score.weight", "bbox_head.bbox_delta.bias"):
        np.testing.assert_array_equal(after[name], before[name])
    load_pretrained(target, tmp_path / "m", Categories(("Fish", "star", "cup"), (7, 8, 9)))
    assert _same(source, target)


def test_newer_pdparams_wins_over_its_twin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_state({"w": np.ones(1, np.float32)}, tmp_path / "m")
    assert find_weights(tmp_path / "m").suffix == ".safetensors" and not caplog.records
    os.utime(tmp_path / "m.safetensors", (1, 1))
    assert find_weights(tmp_path / "m").suffix == ".pdparams"
    (record,) = caplog.records
    assert (
        record.levelname == "WARNING"
        and "m.pdparams is newer than" in record.message
        and "m.safetensors, which is ignored" in record.message
    )
    for suffix in (".pdparams", ".safetensors"):  # a name with its extension is obeyed
        assert find_weights(tmp_path / f"m{suffix}").suffix == suffix


def test_layouts_of_paddle_20_and_21(tmp_path: Path) -> None:
    source = Model()
    arrays = state_arrays(source)
    table = {"StructuredToParameterName@@": {name: f"p_{name}" for name in arrays}}
    old = _dump(tmp_path / "v20.pdparams", {**arrays, **table})
    tuples = _dump(tmp_path / "v21.pdparams", {name: (f"p_{name}", array) for name, array in arrays.items()})
    for file in (old, tuples):
        target = Model()
        load_weights(target, file)
        assert _same(source, target)


def _cut(arrays: dict[str, np.ndarray], limit: int) -> dict[str, object]:
    """Do to tensors above ``limit`` elements what Paddle does to those above a gigabyte."""
    content: dict[str, object] = {}
    table = {}
    for name, array in arrays.items():
        if array.size <= limit:
            content[name] = array
            continue
        flat = array.flatten()
        parts = {f"{name}@@.{i}": flat[i * limit : (i + 1) * limit] for i in range(-(-array.size // limit))}
        content.update(parts)
        table[name] = {"OriginShape": array.shape, "slices": list(parts)}
    return {**content, "UnpackBigParamInfor@@": table}


def test_layout_of_large_tensors(tmp_path: Path) -> None:
    source, target = Model(), Model()
    content = _cut(state_arrays(source), 7)
    assert "neck.weight@@.3" in content and "neck.weight" not in content
    load_weights(target, _dump(tmp_path / "big.pdparams", content))
    assert _same(source, target)
    # Paddle's own reader agrees about the layout
    loaded = paddle.load(str(tmp_path / "big.pdparams"), return_numpy=True)
    np.testing.assert_array_equal(loaded["neck.weight"], source.neck.weight.numpy())
    table: dict = content["UnpackBigParamInfor@@"]  # type: ignore[assignment]
    named = table["neck.weight"]
    missing, unfit = (
        r"some parts of 'neck\.weight' are missing",
        r"'neck\.weight' cannot be joined to the shape \(5, 6\)",
    )
    entries = (
        (3, missing),
        ({}, missing),
        ({**named, "slices": ["x"]}, missing),
        ({**named, "OriginShape": (5, 6)}, unfit),
    )
    for entry, fault in entries:
        file = _dump(tmp_path / "bad.pdparams", {**content, "UnpackBigParamInfor@@": {"neck.weight": entry}})
        with pytest.raises(UserError, match=rf"bad\.pdparams: .*{fault}; copy or download"):
            read_state(file)


def test_strict_errors_name_the_tensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = state_arrays(Model())
    del arrays["neck.weight"], arrays["backbone.1._mean"]
    arrays["neck.bias"] = np.zeros(9, np.float32)
    write_state(arrays, tmp_path / "m")
    target = Model()
    before = state_arrays(target)
    with pytest.raises(UserError) as caught:
        load_weights(target, tmp_path / "m")
    for text in ("m.safetensors", "lacks", "neck.weight", "backbone.1._mean", "neck.bias [9] instead of [5]"):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert array_fingerprint(before) == array_fingerprint(state_arrays(target)), "nothing may be half loaded"


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_backbone_file_fills_the_backbone_alone(tmp_path: Path, prefix: str) -> None:
    source, target = Model(), Model()
    arrays = {prefix + name: array for name, array in state_arrays(source.backbone).items()}
    write_state({**arrays, "fc.weight": np.zeros((5, 1000), np.float32)}, tmp_path / "r50")
    neck = target.neck.weight.numpy().copy()
    load_pretrained(target, tmp_path / "r50.pdparams")
    assert _same(source, target, "backbone.")
    np.testing.assert_array_equal(target.neck.weight.numpy(), neck)
    # an incomplete backbone is an error
    arrays.pop(prefix + "1._variance")
    write_state(arrays, tmp_path / "r50")
    with pytest.raises(UserError, match=r"lacks backbone\.1\._variance;"):
        load_pretrained(target, tmp_path / "r50")


def test_another_number_of_classes_is_said_in_a_line(tmp_path: Path) -> None:
    write_state(state_arrays(Model(classes=80)), tmp_path / "coco")
    with pytest.raises(
        UserError, match=r"coco\.safetensors .*: weights have 80 classes, num_classes is 3; use"
    ) as caught:
        load_weights(Model(classes=3), tmp_path / "coco")
    assert len(str(caught.value)) < 200 + len(str(tmp_path))


def test_layers_are_taken_whole_or_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = Model(classes=80), Model(classes=3)
    arrays = state_arrays(source)
    arrays["neck.bias"] = np.zeros(7, np.float32)
    write_state({**arrays, "mask_head.conv.weight": np.zeros(1, np.float32)}, tmp_path / "coco")
    before = state_arrays(target)
    caplog.set_level("INFO")
    load_pretrained(target, tmp_path / "coco")
    assert _same(source, target, "backbone.")
    after = state_arrays(target)
    for name in ("neck.weight", "neck.bias", "bbox_head.bbox_score.weight", "bbox_head.bbox_delta.bias"):
        np.testing.assert_array_equal(after[name], before[name])
    for line in (
        "loaded 6 of 12 tensors from",
        ": backbone 6 of 6, neck 0 of 2, bbox_head 0 of 4",
        "start as initialised: all of neck, all of bbox_head",
        "bbox_head.bbox_score.weight [5, 81] instead of [5, 4]",
        "not used from",
        ": mask_head (1 tensors)",
    ):
        assert line in caplog.text, caplog.text


def test_half_precision_files_fill_float_models(tmp_path: Path) -> None:
    source, target = Model(), Model()
    arrays = state_arrays(source)
    exact = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    _dump(tmp_path / "bf16.pdparams", exact)
    load_weights(target, tmp_path / "bf16")
    for name, array in state_arrays(target).items():
        np.testing.assert_array_equal(array, (arrays[name].view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_a_folder_is_answered_with_its_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match=r"run is a folder without checkpoints \(\.pdparams"):
        find_weights(run)
    for age, name in enumerate(("model_final", "3", "2", "best_model", "1", "0", ".tmp-1", "x/y")):
        write_state({"w": np.ones(1, np.float32)}, run / name) if "/" not in name else (run / "x.pdparams").mkdir()
        for file in run.glob(f"{name}.*"):
            os.utime(file, (1000 - age, 1000 - age))
    with pytest.raises(UserError) as caught:
        find_weights(f"{run}/")
    assert str(caught.value) == (
        f"weights {run} is a folder; name one of its checkpoints: weights={run / 'best_model'} "
        "(it has best_model, model_final, 3, 2, 1, 0)"
    )
    with pytest.raises(UserError, match="x.pdparams is a folder without checkpoints"):
        find_weights(run / "x.pdparams")
    write_state({"w": np.ones(1, np.float32)}, tmp_path / "run")
    assert find_weights(run).suffix == ".safetensors"
    (run / "infer_cfg.yml").write_text("")
    (tmp_path / "run.pdparams").unlink()
    (tmp_path / "run.safetensors").unlink()
    with pytest.raises(UserError, match="run is an exported model; deploy/python/infer.py --model_dir runs it"):
        find_weights(run)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pdparams do not exist"):
        read_state(tmp_path / "none")
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.onnx are of an unknown kind"):
        read_state(tmp_path / "x.onnx")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
        read_state(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"'epoch' is a int, not a tensor"):
        read_state(_dump(tmp_path / "opt.pdparams", {"epoch": 3}))
    with pytest.raises(UserError, match="holds a list"):
        read_state(_dump(tmp_path / "list.pdparams", [1]))
    write_state({"other.weight": np.ones(2, np.float32)}, tmp_path / "other")
    with pytest.raises(UserError, match=r"no tensor of this model \(its first one is 'other\.weight'\)"):
        load_pretrained(Model(), tmp_path / "other")
