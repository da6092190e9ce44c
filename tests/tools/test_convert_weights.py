"""Command line of the converter: its output files, and one-line errors that leave no files behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.convert_file import check_files, convert_file
from ppdet.checkpoint.weights import read_state, write_state
from ppdet.core.config.node import ConfigDict
from ppdet.core.workspace import load_config, merge_config
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import write_pth

CONFIG = "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/convert_weights.py", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture(scope="module")
def official(oracle: Path) -> dict[str, np.ndarray]:
    """Create a Mask R-CNN checkpoint in which each tensor has a single distinct value."""
    state = {}
    for number, line in enumerate((oracle / "keys" / "mask_rcnn_r50_fpn.tsv").read_text().splitlines()):
        name, shape = line.split("\t")[:2]
        sides = [int(side) for side in shape.split(",") if side.isdigit()]
        state[name] = np.full(sides, number, "i8" if name.endswith("tracked") else "f4")
    return state


@pytest.fixture
def config(repo_root: Path) -> ConfigDict:
    return merge_config({"use_gpu": False}, load_config(str(repo_root / CONFIG)))


def test_conversion(repo_root: Path, official: dict[str, np.ndarray], tmp_path: Path) -> None:
    delta = np.arange(320 * 1024, dtype=np.float32).reshape(320, 1024)
    source = write_pth(tmp_path / "x.pth", {**official, "roi_head.bbox_head.fc_reg.weight": delta})
    target = tmp_path / "weights" / "mask"
    done = run(repo_root, "-c", CONFIG, "--src", str(source), "--dst", f"{target}.pdparams")
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert "307 tensors converted, 53 left" in log
    assert "not converted (a counter that nothing reads): backbone.bn1.num_batches_tracked" in log
    assert sorted(path.name for path in target.parent.iterdir()) == ["mask.pdparams", "mask.safetensors"]
    for arrays in (read_state(f"{target}.pdparams"), paddle.load(f"{target}.pdparams", return_numpy=True)):
        assert len(arrays) == 307
        np.testing.assert_array_equal(arrays["bbox_head.bbox_delta.weight"], delta.T)
        number = list(official).index("roi_head.mask_head.upsample.weight")
        assert (arrays["mask_head.head.upsample.conv5_mask.weight"] == number).all()
    for first, second in ((source, target), (target, f"{target}.safetensors")):
        check_files(str(first), str(second))


@pytest.mark.same_on_every_paddle
def test_comparison(repo_root: Path, tmp_path: Path) -> None:
    write_state({"a": np.zeros(3, np.float32)}, tmp_path / "one")
    write_state({"a": np.array([0, 0, 0.25], np.float32)}, tmp_path / "two")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    differing = run(repo_root, "--check", one, two)
    assert differing.returncode == 1
    assert "differ in 1 tensors: a differs by up to 0.25" in differing.stderr
    assert run(repo_root, "--check", one, two, "--tolerance", "0.3").returncode == 0
    check_files(one, one)
    with pytest.raises(UserError, match="--tolerance is nan"):
        check_files(one, two, float("nan"))


@pytest.mark.same_on_every_paddle
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("canary.pth", "__builtin__.print, not a tensor"),
        ("canary.pdparams", "contains __builtin__.print; refused"),
        ("zip_archive.pth", "the checkpoint does not fit the model: it lacks backbone"),
        ("README.md", "of an unknown kind"),
    ],
)
def test_mistakes(repo_root: Path, tmp_path: Path, name: str, message: str) -> None:
    done = run(
        repo_root, "-c", CONFIG, "--src", f"tests/checkpoint/formats/pth/{name}", "--dst", str(tmp_path / "out" / "x")
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [] and "canary" not in done.stdout


@pytest.mark.same_on_every_paddle
def test_missing_arguments(repo_root: Path) -> None:
    done = run(repo_root, "--src", "x.pth", "--dst", "y")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --config is missing; it is required unless --check A B is given"


def test_what_does_not_fit_writes_nothing(config: ConfigDict, official: dict[str, np.ndarray], tmp_path: Path) -> None:
    source, target = tmp_path / "x.pth", tmp_path / "out" / "x"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            convert_file(config, source, target)
        assert "\n" not in str(caught.value) and not target.parent.exists()

    refused("do not exist")
    source.write_text("This is a text.")
    refused(r"x\.pth is not a PyTorch checkpoint")
    write_pth(source, {**official, "roi_head.bbox_head.fc_cls.bias": np.zeros(4, np.float32)})
    refused(r"x\.pth: .*bbox_head\.bbox_score\.bias \[4\] instead of \[81\]")
    retina = {name: value for name, value in official.items() if not name.startswith(("roi_head", "rpn_head"))}
    write_pth(source, {**retina, "bbox_head.retina_cls.weight": np.zeros((720, 256, 3, 3), np.float32)})
    refused(r"x\.pth: the checkpoint does not fit the model: it lacks rpn_head")
    source.write_bytes(source.read_bytes()[:-100_000])
    refused(r"x\.pth is not a PyTorch checkpoint, or it is damaged")
