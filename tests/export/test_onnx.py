"""ONNX files: that onnxruntime computes what the model does, for every family."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddle.static import InputSpec

from deploy.python import Predictor
from ppdet import ext_op
from ppdet.export.exporter import export_model
from ppdet.export.onnx_export import DEFAULT_OPSET, check_converter, convert_to_onnx
from ppdet.modeling.layers import ConvNormLayer
from ppdet.modeling.ops.nms import multiclass_nms
from ppdet.modeling.ops.onnx_form import onnx_form
from ppdet.modeling.ops.roi_align import pyramid_roi_align
from ppdet.utils.errors import UserError
from tests.export.test_exporter import FAMILIES, assert_same_detections, batch, run, small

MISSING = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (requirements-onnx.txt)")

RUN = """
import sys
import numpy as np
import onnxruntime
model, given, results = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
arrays = np.load(given)
for batch in range(int(arrays["count"])):
    inputs = {value.name: arrays[f"{value.name}_{batch}"] for value in session.get_inputs()}
    outputs = session.run(None, inputs)
    np.savez(f"{results}{batch}.npz", **{value.name: array for value, array in zip(session.get_outputs(), outputs)})
"""


def run_onnx(model: Path, *batches: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Outputs by name for each batch; in a process of its own, as onnxruntime and Paddle end each other."""
    given, results = model.with_name("given.npz"), model.with_name("results")
    arrays = {f"{name}_{place}": array for place, inputs in enumerate(batches) for name, array in inputs.items()}
    np.savez(given, count=len(batches), **arrays)
    subprocess.run([sys.executable, "-c", RUN, str(model), str(given), str(results)], check=True)
    return [dict(np.load(f"{results}{place}.npz")) for place in range(len(batches))]


class Net(nn.Layer):
    """A function as a layer."""

    def __init__(self, function: Callable[..., tuple[Any, ...]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: list[paddle.Tensor]) -> tuple[Any, ...]:
        return self.function(*inputs)


def converted(net: nn.Layer, specs: list[InputSpec], folder: Path, outputs: list[str]) -> Path:
    """A net as an ONNX file."""
    net.eval()
    with onnx_form():
        paddle.jit.save(paddle.jit.to_static(net, input_spec=[specs], full_graph=True), str(folder / "net"))
    convert_to_onnx(folder / "net.json", folder / "net.pdiparams", folder / "net.onnx", DEFAULT_OPSET, outputs)
    return folder / "net.onnx"


def open_specs(inputs: dict[str, np.ndarray], fixed: dict[str, list[int | None]]) -> list[InputSpec]:
    """Every axis open where ``fixed`` does not say otherwise."""
    return [InputSpec(fixed.get(name, [None] * array.ndim), str(array.dtype), name) for name, array in inputs.items()]


@needs_onnx
@pytest.mark.parametrize("family", FAMILIES)
def test_onnxruntime_computes_what_the_model_does(family: str, tmp_path: Path) -> None:
    config, model = small(family, tmp_path)
    folder = export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    about = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    assert set(about["export"]["files"]) == {path.name for path in folder.iterdir()} - {"infer_cfg.yml"}
    assert "model.onnx" in about["export"]["files"]
    wide = {**batch(1), "image": np.pad(batch(1)["image"], ((0, 0), (0, 0), (0, 32), (0, 64)))}
    batches = [batch(1), batch(3), wide]
    for inputs, found in zip(batches, run_onnx(folder / "model.onnx", *batches)):
        assert list(found) == ["bbox", "bbox_num", "mask"][: 2 + about["mask"]]
        assert found["bbox_num"].dtype == np.int32
        assert assert_same_detections(list(found.values()), model, inputs) >= 2 * len(inputs["image"])


@needs_onnx
@pytest.mark.parametrize("opset", [16, 18, 19])
def test_other_opsets(opset: int, tmp_path: Path) -> None:
    import onnx

    config, model = small("htc", tmp_path)
    folder = export_model(config, tmp_path / "exported", opset)
    assert [entry.version for entry in onnx.load(str(folder / "model.onnx")).opset_import] == [opset]
    (found,) = run_onnx(folder / "model.onnx", batch(3))
    assert assert_same_detections(list(found.values()), model, batch(3)) > 9


@needs_onnx
def test_no_detection(tmp_path: Path) -> None:
    config, _ = small("htc", tmp_path, BBoxPostProcess={"nms": {"score_threshold": 1.0}})
    folder = export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    for count, found in zip((1, 3), run_onnx(folder / "model.onnx", batch(1), batch(3))):
        assert found["bbox"].shape == (0, 6) and found["mask"].shape == (0, 28, 28)
        assert found["bbox_num"].tolist() == [0] * count


@needs_onnx
@pytest.mark.parametrize("settings", [{"nms": False}, {"benchmark": True}])
def test_without_suppression(settings: dict[str, bool], tmp_path: Path) -> None:
    config, _ = small("mask_rcnn", tmp_path, export=settings)
    folder = export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    wanted = run(folder, {name: batch(3)[name] for name in list(batch(3))[: 2 + ("nms" in settings)]})
    (found,) = run_onnx(folder / "model.onnx", batch(3))
    assert list(found) == ["boxes", "scores"]
    for own, golden in zip(found.values(), wanted):
        np.testing.assert_allclose(own, golden, rtol=1e-4, atol=1e-3)


@needs_onnx
def test_beside_a_graph_with_the_extension(built_extension: Path, tmp_path: Path) -> None:
    config, model = small("htc", tmp_path, use_ext_op=True)
    folder = export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    assert not ext_op.in_use()
    assert b"htc_roi_align" in (folder / "model.json").read_bytes()
    (found,) = run_onnx(folder / "model.onnx", batch(3))
    assert assert_same_detections(list(found.values()), model, batch(3)) > 9


@needs_onnx
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("keep", [3, 100])
def test_suppression(by_class: bool, keep: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 40, (3, 20, 4, 2) if by_class else (3, 20, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 30, low.shape)], axis=-1).astype(np.float32)
    scores = rng.permutation(3 * 4 * 20).reshape(3, 4, 20).astype(np.float32) / 250  # no two are equal
    scores[1] = 0.0
    inputs = {"boxes": boxes, "scores": scores}
    net = Net(lambda boxes, scores: multiclass_nms(boxes, scores, 0.3, 0.4, keep))
    fixed: dict[str, list[int | None]] = {"boxes": [*[None] * (boxes.ndim - 1), 4], "scores": [None, 4, None]}
    fixed["boxes"][2] = 4
    (found,) = run_onnx(converted(net, open_specs(inputs, fixed), tmp_path, ["rows", "bbox_num"]), inputs)
    rows, number = (x.numpy() for x in multiclass_nms(*map(paddle.to_tensor, inputs.values()), 0.3, 0.4, keep))
    assert number[1] == 0 and (number == keep).sum() == (2 if keep == 3 else 0) and number.max() > 2
    assert found["bbox_num"].tolist() == number.tolist()
    image = np.repeat(range(3), number)
    np.testing.assert_array_equal(found["rows"], rows[np.lexsort((-rows[:, 1], image))])


@needs_onnx
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("levels", [1, 3])
def test_roi_align(aligned: bool, sampling_ratio: int, levels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    inputs = {f"level{i}": rng.normal(size=(3, 2, 32 >> i, 40 >> i)).astype(np.float32) for i in range(levels)}
    boxes = [[10, 10, 12.5, 30], [0, 0, 159, 127], [40, 40, 40, 50], [100, 3, 160, 100], [7, 5, 8, 6]]
    inputs["boxes"], inputs["number"] = np.array(boxes, np.float32), np.array([2, 0, 3], np.int32)
    scales = [0.25, 0.125, 0.0625][:levels]

    def pool(*given: paddle.Tensor) -> tuple[paddle.Tensor]:
        return (pyramid_roi_align(given[:levels], given[-2], given[-1], scales, 4, sampling_ratio, aligned, 30.0),)

    fixed: dict[str, list[int | None]] = {
        "boxes": [None, 4],
        **{name: [None, 2, None, None] for name in inputs if "l" in name},
    }
    (found,) = run_onnx(converted(Net(pool), open_specs(inputs, fixed), tmp_path, ["pooled"]), inputs)
    (wanted,) = pool(*map(paddle.to_tensor, inputs.values()))
    np.testing.assert_allclose(found["pooled"], wanted.numpy(), atol=1e-5)
    assert not found["pooled"][2].any() and np.abs(found["pooled"][3]).max() > 0.1


@needs_onnx
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_deformable_convolution(version: str, tmp_path: Path) -> None:
    paddle.seed(6)
    layer = ConvNormLayer(channels_in=3, channels_out=4, kernel=3, stride=2, dcn=version)
    layer.conv_offset.weight.set_value(paddle.randn(layer.conv_offset.weight.shape))
    layer.eval()
    inputs = {"x": np.random.default_rng(6).normal(size=(2, 3, 9, 12)).astype(np.float32)}
    net = Net(lambda x: (layer(x),))
    net.layer = layer
    path = converted(net, open_specs(inputs, {"x": [None, 3, None, None]}), tmp_path, ["y"])
    (found,) = run_onnx(path, inputs)
    wanted = layer(paddle.to_tensor(inputs["x"])).numpy()
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(found["y"], wanted, atol=1e-5)


@needs_onnx
def test_what_cannot_be_converted(tmp_path: Path) -> None:
    inputs = {"x": np.eye(3, dtype=np.float32)}
    with pytest.raises(UserError, match="cannot convert this model: Due to the unsupported operators, the conv"):
        converted(Net(paddle.linalg.svd), open_specs(inputs, {"x": [3, 3]}), tmp_path, ["u", "s", "v"])


@needs_onnx
def test_a_failing_conversion_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UserError("paddle2onnx cannot convert this model: for a test")

    config, _ = small("mask_rcnn", tmp_path)
    target = tmp_path / "exported" / Path(config.filename).stem
    target.mkdir(parents=True)
    (target / "model.pdiparams").write_text("old")
    monkeypatch.setattr("ppdet.export.exporter.convert_to_onnx", fail)
    with pytest.raises(UserError, match="for a test"):
        export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    assert [path.name for path in (tmp_path / "exported").rglob("*")] == [target.name, "model.pdiparams"]


@needs_onnx
def test_the_documented_example(repo_root: Path, tmp_path: Path) -> None:
    config, _ = small("htc", tmp_path)
    folder = export_model(config, tmp_path / "exported", DEFAULT_OPSET)
    pixels = np.random.default_rng(8).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    (code,) = re.findall(
        r"```python\n(.*?)```", (repo_root / "docs" / "onnx.md").read_text(encoding="utf-8"), re.DOTALL
    )
    for name, path in (("output_inference/htc_r50_fpn_1x_coco", folder), ("a.jpg", tmp_path / "a.png")):
        assert code.count(f'"{name}"') == 1
        code = code.replace(f'"{name}"', repr(str(path)))
    code += f"np.savez({str(tmp_path / 'found.npz')!r}, rows=detections.rows, masks=detections.masks.values)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True, stdout=subprocess.PIPE, text=True)
    wanted = Predictor(folder, enable_mkldnn=False)(pixels)
    own = np.load(tmp_path / "found.npz")
    assert wanted.masks is not None and len(wanted) > 2 and len(done.stdout.splitlines()) == len(wanted.above(0.5))
    order = [np.lexsort((rows[:, 0], np.round(rows[:, 1], 4))) for rows in (own["rows"], wanted.rows)]
    np.testing.assert_allclose(own["rows"][order[0]], wanted.rows[order[1]], atol=0.05)
    np.testing.assert_allclose(own["masks"][order[0]], wanted.masks.values[order[1]], atol=1e-3)


def test_mistakes_come_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paddle, "__version__", "3.3.1")
    with pytest.raises(UserError, match="--opset is 11, expected 16 to 19"):
        check_converter(11)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "paddle2onnx" else object())
    with pytest.raises(UserError, match="paddle2onnx is not installed: python -m pip install -r requirements-onnx.txt"):
        check_converter(17)
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(UserError, match="ONNX export needs PaddlePaddle 3; this is 2.6.2"):
        check_converter(17)
