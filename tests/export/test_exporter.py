"""Exported folders: what they say, and that Paddle Inference computes what the model does, for every family."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from paddle.inference import Config, create_predictor
from paddle.static import InputSpec

from ppdet.checkpoint.weight_files import write_state
from ppdet.checkpoint.weights import state_arrays
from ppdet.core.workspace import create
from ppdet.export.description import inference_config
from ppdet.export.exporter import export_model, save_graph
from ppdet.modeling.fold import fold_batch_norms
from ppdet.structures.batch import Batch
from ppdet.utils.errors import UserError
from tests.configs.test_zoo import SMALL, load

HTC = "htc/htc_r50_fpn_1x_coco.yml"
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "htc": (HTC, {}),
    "htc_without_semantic": ("htc/htc_without_semantic_r50_fpn_1x_coco.yml", {}),
    "htc_boxes_only": (HTC, {"HybridTaskCascade": {"mask_head": None}}),
    "htc_dcn": ("htc/htc_x101_64x4d_fpn_dcn_c3_c5_mstrain_400_1400_20e_coco.yml", {}),
    "cascade": ("cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml", {}),
    "cascade_paddledet": ("cascade_mask_rcnn/paddledet_cascade_mask_rcnn_r50_fpn_1x_coco.yml", {}),
    "mask_rcnn": ("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml", {}),
    "faster_rcnn": ("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml", {"architecture": "FasterRCNN"}),
}


def small(family: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Configuration of a small twin and its model, whose weights are written to ``folder``.

    Scores of random weights lie close together, where rounding decides an order: the classifiers are sharpened, and
    batch normalisation gets statistics that are worth folding.
    """
    name, own = FAMILIES[family]
    backbone = {**SMALL["ResNet"], "dcn_v1_stages": [1] if "dcn" in family else [-1]}
    weights = {
        "weights": str(folder / "weights.pdparams"),
        "BBoxPostProcess": {"nms": {"score_threshold": 0.01, "nms_threshold": 0.9}},
    }
    config = load(name, **{**SMALL, "ResNet": backbone, **weights, **own, **changes})
    paddle.seed(3)
    model = create(config, config.architecture)
    rng = np.random.default_rng(4)
    for key, tensor in model.state_dict().items():
        if key.endswith("_mean"):
            tensor.set_value(rng.normal(scale=0.1, size=tensor.shape).astype(np.float32))
        elif key.endswith("_variance"):
            tensor.set_value(rng.uniform(0.5, 2.0, size=tensor.shape).astype(np.float32))
        elif "bbox_score" in key and key.endswith("weight"):
            tensor.set_value(tensor * 60.0)
    model.eval()
    write_state(state_arrays(model), folder / "weights")
    return config, model


def batch(count: int) -> dict[str, np.ndarray]:
    """Images of different sizes, padded to 96 x 128."""
    rng = np.random.default_rng(5)
    shapes = np.array([[96, 100], [70, 128], [33, 50]][:count], np.float32)
    image = np.zeros((count, 3, 96, 128), np.float32)
    for place, (height, width) in enumerate(shapes.astype(int)):
        image[place, :, :height, :width] = rng.normal(size=(3, height, width))
    scale = np.array([[0.5, 0.51], [1.0, 1.0], [0.25, 0.26]][:count], np.float32)
    return {"image": image, "im_shape": shapes, "scale_factor": scale}


def run(folder: Path, inputs: dict[str, np.ndarray], onednn: bool = False) -> list[np.ndarray]:
    """The outputs of an exported graph."""
    return outputs_of(open_graph(folder, onednn), inputs)


def open_graph(folder: Path, onednn: bool = False) -> Any:
    """The predictor of an exported folder."""
    graph = folder / "model.json"
    settings = Config(str(graph if graph.exists() else folder / "model.pdmodel"), str(folder / "model.pdiparams"))
    settings.disable_gpu()
    settings.disable_glog_info()
    if onednn:
        settings.enable_mkldnn()
    elif hasattr(settings, "disable_onednn"):
        settings.disable_onednn()
    return create_predictor(settings)


def outputs_of(predictor: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What a predictor computes from its inputs."""
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(inputs[name])
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def assert_same_detections(own: list[np.ndarray], model: Any, inputs: dict[str, np.ndarray]) -> int:
    """Every detection has its twin; returns how many there are."""
    with paddle.no_grad():
        wanted = model(tensors(inputs)).to_host()
    assert own[1].tolist() == wanted["bbox_num"].tolist()
    begin = 0
    for count in filter(None, own[1].tolist()):
        mine, golden = own[0][begin : begin + count], wanted["bbox"][begin : begin + count]
        far = np.abs(mine[:, None] - golden[None]) > np.array([0.5, 1e-4, 0.01, 0.01, 0.01, 0.01])
        twin = (~far.any(axis=2)).argmax(axis=1)
        assert sorted(twin.tolist()) == list(range(count))
        if "mask" in wanted:
            np.testing.assert_allclose(
                own[2][begin : begin + count], wanted["mask"][begin : begin + count][twin], atol=1e-4
            )
        begin += count
    return begin


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {key: paddle.to_tensor(value) for key, value in inputs.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_computes_what_the_model_does(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if family == "htc":
        folder, model = request.getfixturevalue("exported_htc")
    else:
        config, model = small(family, tmp_path)
        folder = export_model(config, tmp_path / "exported")
    about = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    assert about["mask"] == (family not in ("htc_boxes_only", "faster_rcnn"))
    assert set(about["export"]["files"]) == {path.name for path in folder.iterdir()} - {"infer_cfg.yml"}
    for count in (1, 3):
        inputs = batch(count)
        found = run(folder, inputs)
        assert len(found) == 2 + about["mask"]
        assert assert_same_detections(found, model, inputs) >= 2 * count


def test_onednn_computes_the_same(exported_htc: tuple[Path, Any]) -> None:
    folder, model = exported_htc
    assert assert_same_detections(run(folder, batch(3), onednn=True), model, batch(3)) > 9


@pytest.mark.parametrize("family", ["htc", "mask_rcnn"])  # boxes shared by the classes, and boxes of their own
def test_limited_candidates_of_a_class(family: str, tmp_path: Path) -> None:
    """Two candidates of each class enter the suppression, whatever the number of detections that are kept."""
    nms = {"score_threshold": 0.01, "nms_threshold": 0.9}
    config, model = small(family, tmp_path, BBoxPostProcess={"nms": {**nms, "nms_top_k": 2}})
    folder = export_model(config, tmp_path / "exported")
    found = run(folder, batch(3))
    count = assert_same_detections(found, model, batch(3))
    model.bbox_post_process.nms.nms_top_k = -1
    with paddle.no_grad():
        everything = model(tensors(batch(3))).scores
    assert 6 <= count < len(everything)
    assert max(np.bincount(found[0][: found[1][0], 0].astype(int))) == 2


class _Half(nn.Layer):
    """Ignores its second input."""

    def forward(self, inputs: list[paddle.Tensor]) -> tuple[paddle.Tensor, ...]:
        return (inputs[0] * 0.5,)


def test_unused_input_is_refused(tmp_path: Path) -> None:
    specs = [InputSpec([None, 2], "float32", name) for name in ("image", "prompt")]
    with pytest.raises(UserError, match="do not depend on all of the inputs image, prompt: remove the others"):
        save_graph(_Half(), specs, tmp_path)


def test_no_detection(tmp_path: Path) -> None:
    config, _ = small("htc", tmp_path, BBoxPostProcess={"nms": {"score_threshold": 1.0}})
    folder = export_model(config, tmp_path / "exported")
    for onednn in (False, True):
        bbox, number, mask = run(folder, batch(3), onednn)
        assert bbox.shape == (0, 6) and number.tolist() == [0, 0, 0] and mask.shape == (0, 28, 28)


@pytest.mark.parametrize("key", ["nms", "benchmark"])
def test_without_suppression(key: str, tmp_path: Path) -> None:
    config, model = small("htc", tmp_path, export={key: key == "benchmark"})
    boxes, scores = run(export_model(config, tmp_path / "exported"), batch(3))
    with paddle.no_grad():
        wanted = model.candidates(Batch.from_inputs(tensors(batch(3)), training=False))
    factor = batch(3)["scale_factor"][:, None, [1, 0, 1, 0]] if key == "nms" else 1.0
    valid = wanted.valid.numpy()
    np.testing.assert_allclose(boxes[valid], (wanted.boxes.numpy() / factor)[valid], rtol=1e-4, atol=1e-3)
    probability = wanted.probability.numpy()
    np.testing.assert_allclose(
        scores[valid], (probability[..., :-1] if key == "nms" else probability)[valid], atol=1e-4
    )
    assert key != "nms" or not scores[~valid].any()


def test_folding_changes_no_feature(tmp_path: Path) -> None:
    _, model = small("htc_dcn", tmp_path)
    image = paddle.to_tensor(batch(1)["image"])
    with paddle.no_grad():
        wanted = [feature.numpy() for feature in model.backbone(image)]
        count = fold_batch_norms(model)
        found = [feature.numpy() for feature in model.backbone(image)]
    assert (
        count == len([name for name in state_arrays(model) if name.startswith("backbone") and "conv.bias" in name]) > 15
    )
    assert not any("norm" in name for name in state_arrays(model))
    for own, golden in zip(found, wanted):
        np.testing.assert_allclose(own, golden, atol=2e-5 * np.abs(golden).max())


@pytest.mark.parametrize(
    "section",
    [
        {"MaskPostProcess": {"binary_thresh": 0.4}},
        {"MaskRCNN": {"mask_post_process": {"name": "MaskPostProcess", "binary_thresh": 0.4}}},
    ],
)
def test_description(section: dict[str, Any], tmp_path: Path) -> None:
    reader = {
        "sample_transforms": [
            {"Decode": {}},
            {"Resize": {"target_size": [480, 640], "keep_ratio": False, "interp": 2}},
            {"NormalizeImage": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 2.0], "is_scale": False}},
            {"Permute": {}},
        ],
        "batch_transforms": [{"PadBatch": {"pad_to_stride": 64}}],
    }
    config, model = small("mask_rcnn", tmp_path, TestReader=reader, **section)
    about = inference_config(config, model)
    assert about["arch"] == "RCNN" and about["metric"] == "COCO" and about["mode"] == "paddle"
    assert about["use_dynamic_shape"] is True and about["mask"] is True and about["mask_threshold"] == 0.4
    assert about["Preprocess"] == [
        {"type": "Resize", "target_size": [480, 640], "keep_ratio": False, "interp": 2},
        {"type": "NormalizeImage", "is_scale": False, "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 2.0]},
        {"type": "Permute"},
        {"type": "PadStride", "stride": 64},
    ]
    assert len(about["label_list"]) == len(about["category_ids"]) == 3


def test_a_fixed_size(tmp_path: Path) -> None:
    config, model = small("mask_rcnn", tmp_path, TestReader={"inputs_def": {"image_shape": [3, 96, 128]}})
    folder = export_model(config, tmp_path / "exported")
    assert yaml.safe_load((folder / "infer_cfg.yml").read_text())["use_dynamic_shape"] is False
    assert assert_same_detections(run(folder, batch(2)), model, batch(2)) > 6


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"weights": None}, "no weights given"),
        ({"weights": "nowhere/model_final"}, "nowhere/model_final"),
        ({"num_classes": 4}, "weights have 3 classes, num_classes is 4"),
        ({"TestReader": {"sample_transforms": [{"RandomFlip": {}}]}}, "RandomFlip"),
        ({"TestReader": {"inputs_def": {"image_shape": [1, 96, 128]}}}, "image_shape"),
    ],
)
def test_a_mistake_leaves_the_older_folder(changes: dict[str, Any], culprit: str, tmp_path: Path) -> None:
    config, _ = small("mask_rcnn", tmp_path)
    target = tmp_path / "exported" / Path(config.filename).stem
    target.mkdir(parents=True)
    (target / "model.pdiparams").write_text("old")
    wrong = load(FAMILIES["mask_rcnn"][0], **{**SMALL, "weights": str(tmp_path / "weights.pdparams"), **changes})
    with pytest.raises(UserError, match=culprit):
        export_model(wrong, tmp_path / "exported")
    assert [path.name for path in (tmp_path / "exported").rglob("*")] == [target.name, "model.pdiparams"]


def test_a_new_export_replaces_the_older_folder(tmp_path: Path) -> None:
    config, _ = small("mask_rcnn", tmp_path, export={"benchmark": True})
    target = tmp_path / "exported" / Path(config.filename).stem
    target.mkdir(parents=True)
    (target / "left_over").write_text("old")
    assert export_model(config, tmp_path / "exported") == target
    assert not (target / "left_over").exists() and (target / "model.pdiparams").stat().st_size > 1000
    assert [path.name for path in (tmp_path / "exported").iterdir()] == [target.name]


@pytest.fixture(scope="module")
def extended(built_extension: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An export whose graph has operators of the extension, and its model."""
    folder = tmp_path_factory.mktemp("extended")
    config, model = small("htc", folder, use_ext_op=True)
    exported = export_model(config, folder / "exported")
    return exported, model


@pytest.mark.parametrize("onednn", [False, True])
def test_extension_in_the_graph(extended: tuple[Path, Any], onednn: bool) -> None:
    folder, model = extended
    about = yaml.safe_load((folder / "infer_cfg.yml").read_text())["export"]
    assert about["extension"] is True and about["extension_build"]["paddle"] == paddle.__version__
    assert about["files"]["htc_ext.so"] == f"{zlib.crc32((folder / 'htc_ext.so').read_bytes()):08x}"
    assert assert_same_detections(run(folder, batch(3), onednn), model, batch(3)) > 9


def test_deploy_copied_alone_runs_an_export_with_the_extension(
    extended: tuple[Path, Any], repo_root: Path, tmp_path: Path
) -> None:
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repo_root / "deploy", tmp_path / "deploy", ignore=skipped)
    shutil.copytree(extended[0], tmp_path / "model")
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))
    command = [sys.executable, "deploy/python/infer.py", "--model_dir", "model", "--image_file", "a.png"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def infer() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = infer()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "a.png").is_file()
    config = tmp_path / "model" / "infer_cfg.yml"
    config.write_text(config.read_text().replace(f"python: '{sys.version_info[0]}.", "python: '2."))
    done = infer()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "htc_ext.so was built for Python 2." in error and "without -o use_ext_op=true" in error
