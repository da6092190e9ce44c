"""The exported graph has the same detections as the model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from deploy.common.errors import UserError
from deploy.common.image_io import read_image
from deploy.python import Detections, Predictor
from tests.deploy.python.conftest import CLASSES, EMPTY, SIZES, Exported, Recorded


@pytest.fixture(scope="module")
def plain(exported: Exported) -> Predictor:
    """Predictor without oneDNN."""
    return Predictor(exported.folder, enable_mkldnn=False, cpu_threads=1)


def _check(found: list[Detections], recorded: Recorded) -> None:
    """Compare with the results of the model: coordinates, scores and probabilities agree up to float32 rounding."""
    assert [len(one) for one in found] == recorded.outputs["bbox_num"].tolist()
    rows = np.concatenate([one.rows for one in found])
    masks = np.concatenate([one.masks.values for one in found if one.masks is not None])
    np.testing.assert_array_equal(rows[:, 0], recorded.outputs["bbox"][:, 0])
    np.testing.assert_allclose(rows[:, 1], recorded.outputs["bbox"][:, 1], atol=1e-4)
    np.testing.assert_allclose(rows[:, 2:], recorded.outputs["bbox"][:, 2:], atol=5e-3)
    np.testing.assert_allclose(masks, recorded.outputs["mask"], atol=1e-3)


@pytest.mark.parametrize("engine", ["predictor", "plain"])
def test_four_sizes_in_one_batch(exported: Exported, engine: str, request: pytest.FixtureRequest) -> None:
    runner: Predictor = request.getfixturevalue(engine)
    found = runner.predict([read_image(path) for path in exported.pictures])
    _check(found, exported.together)
    assert [one.size for one in found] == list(SIZES)
    assert sum(len(one) for one in found) > 10


@pytest.mark.parametrize("engine", ["predictor", "plain"])
@pytest.mark.parametrize("place", range(len(SIZES)))
def test_one_image(exported: Exported, engine: str, place: int, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(engine)(exported.pictures[place])
    _check([found], exported.alone[place])
    assert (len(found) == 0) == (place == EMPTY)


def test_nothing_found_has_the_usual_shapes(exported: Exported, predictor: Predictor) -> None:
    found = predictor(exported.pictures[EMPTY])
    assert found.rows.shape == (0, 6) and found.masks is not None and found.masks.values.shape == (0, 28, 28)
    assert predictor.predict([]) == []


def test_what_the_predictor_knows(predictor: Predictor) -> None:
    assert predictor.class_names == list(CLASSES.values()) and predictor.category_ids == list(CLASSES)
    assert (predictor.has_masks, predictor.mask_threshold, predictor.draw_threshold) == (True, 0.5, 0.5)


def test_an_array_or_a_file(exported: Exported, predictor: Predictor) -> None:
    by_array = predictor(read_image(exported.pictures[0]))
    np.testing.assert_array_equal(by_array.rows, predictor(Path(exported.pictures[0])).rows)
    with pytest.raises(UserError, match=r"nowhere\.jpg does not exist"):
        predictor("nowhere.jpg")


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_no_image(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"an image must be uint8 \[h, w, 3\] RGB, got "):
        predictor(image)


@pytest.mark.parametrize("mode", ["trt_fp32", "trt_fp16", "trt_int8"])
def test_tensorrt_is_refused(exported: Exported, mode: str) -> None:
    with pytest.raises(UserError, match=f"{mode} needs TensorRT"):
        Predictor(exported.folder, run_mode=mode)


def test_unknown_device_and_mode(exported: Exported) -> None:
    with pytest.raises(UserError, match="NPU is not supported"):
        Predictor(exported.folder, device="NPU")
    with pytest.raises(UserError, match="onnx is unknown"):
        Predictor(exported.folder, run_mode="onnx")
    if not paddle.is_compiled_with_cuda():
        with pytest.raises(UserError, match="no GPU support"):
            Predictor(exported.folder, device="gpu")


def test_outputs_of_another_model(predictor: Predictor) -> None:
    rows, counts = np.zeros((2, 6), np.float32), np.array([2], np.int32)
    masks = np.zeros((2, 28, 28), np.float32)
    good = {"bbox": rows, "bbox_num": counts, "mask": masks}
    (found,) = predictor.postprocess(good, [(8, 8)])
    assert len(found) == 2
    beyond = rows.copy()
    beyond[1, 0] = len(CLASSES)
    for change, culprit in [
        ({"bbox": rows[:, :5]}, r"bbox \[2, 5\], .* instead of bbox \[N, 6\] and bbox_num \[1\]"),
        ({"bbox_num": np.array([1, 1])}, r"instead of bbox \[N, 6\] and bbox_num \[1\]"),
        ({"bbox_num": np.array([3])}, r"returns 2 detections, but bbox_num is \[3\]"),
        ({"mask": np.zeros((2, 8, 8), np.int32)}, r"mask int32 \[2, 8, 8\] instead of float32"),
        ({"mask": masks[:1]}, r"mask float32 \[1, 28, 28\] instead of float32 \[2, any, any\]"),
        ({"bbox": beyond}, "returns class 6, but there are 6 class names"),
    ]:
        with pytest.raises(UserError, match=culprit):
            predictor.postprocess({**good, **change}, [(8, 8)])


def test_a_failure_of_paddle_is_one_line(predictor: Predictor) -> None:
    inputs = predictor.preprocess([np.zeros((64, 64, 3), np.uint8)])
    inputs["image"] = inputs["image"][:, :1]
    with pytest.raises(UserError, match="^Paddle failed on an input of shape 1 x 1 x 64 x 64: ") as caught:
        predictor.run(inputs)
    assert "\n" not in str(caught.value)


def test_a_graph_that_paddle_cannot_load(exported: Exported, tmp_path: Path) -> None:
    for path in exported.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "infer_cfg.yml"
    config.write_text(config.read_text().partition("  files:")[0])  # without checksums, the file is passed to Paddle
    (tmp_path / "model.pdiparams").write_bytes(b"")
    with pytest.raises(UserError, match="cannot load"):
        Predictor(tmp_path)


def test_nothing_of_ppdet_is_imported(repo_root: Path) -> None:
    code = (
        "import sys; import deploy.python.infer; import deploy.common.ext_library; import paddle; "
        "used = {name.partition('.')[0] for name in sys.modules}; print(sorted(used & {'ppdet', 'pycocotools'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_deploy_names_no_module_of_ppdet(repo_root: Path) -> None:
    sources = sorted((repo_root / "deploy").rglob("*.py"))
    assert len(sources) > 15
    statement = re.compile(r"^\s*(import|from)\s+ppdet\b", re.MULTILINE)
    assert [path.name for path in sources if statement.search(path.read_text())] == []
