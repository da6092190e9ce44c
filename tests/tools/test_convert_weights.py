"""The converter's command line: what it writes, and that mistakes cost one line and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppdet.engine.weights import write_state

CONFIG = "configs/htc/htc_r50_fpn_1x_coco.yml"


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/convert_weights.py", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_comparison(repo_root: Path, tmp_path: Path) -> None:
    write_state({"a": np.zeros(3, np.float32)}, tmp_path / "one")
    write_state({"a": np.array([0, 0, 0.25], np.float32)}, tmp_path / "two")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert run(repo_root, "--check", one, one).returncode == 0
    differing = run(repo_root, "--check", one, two)
    assert differing.returncode == 1
    assert "differ in 1 tensors: a differs by up to 0.25" in differing.stderr
    assert run(repo_root, "--check", one, two, "--tolerance", "0.3").returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("canary.pth", "__builtin__.print, not a tensor"),
        ("zip_archive.pth", "the checkpoint does not fit the model: it lacks backbone"),
        ("README.md", "of an unknown kind"),
        ("none.pth", "do not exist"),
    ],
)
def test_mistakes(repo_root: Path, tmp_path: Path, name: str, message: str) -> None:
    done = run(repo_root, "-c", CONFIG, "--src", f"tests/engine/pth/{name}", "--dst", str(tmp_path / "out" / "x"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [] and "canary" not in done.stdout
