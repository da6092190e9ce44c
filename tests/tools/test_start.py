"""Startup of the tools: selection of the right ppdet, one-line messages for missing packages and for user errors."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest


@pytest.fixture()
def start(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("_start", repo_root / "tools" / "_start.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _last_line(capsys: pytest.CaptureFixture[str], start: types.ModuleType) -> str:
    with pytest.raises(SystemExit) as ended:
        start.prepare()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_missing_package_names_the_install_command(
    start: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cv2" else find(name))
    line = _last_line(capsys, start)
    assert line.startswith("error: opencv-python-headless is not installed; run: python -m pip install -r ")
    assert line.endswith("requirements.txt")


def test_foreign_ppdet_is_refused(
    start: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    foreign = types.ModuleType("ppdet")
    foreign.__file__ = str(tmp_path / "ppdet" / "__init__.py")
    monkeypatch.setitem(sys.modules, "ppdet", foreign)
    assert str(tmp_path / "ppdet") in _last_line(capsys, start)


def test_checkout_comes_before_an_installed_ppdet(repo_root: Path, tmp_path: Path) -> None:
    (tmp_path / "ppdet").mkdir()
    (tmp_path / "ppdet" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = _run(repo_root, "train.py", "-c", "none.yml", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "none.yml" in done.stderr and "wrong one" not in done.stderr


def _run(repo_root: Path, tool: str, *arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "tools" / tool), *arguments]
    environment = {**os.environ, "GLOG_minloglevel": "2", **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("train.py", [], "-c/--config"),
        ("eval.py", ["-c", "CONFIG", "--classwsie"], "--classwsie"),
        ("eval.py", ["-c", "CONFIG", "-o", "wieghts=x"], "did you mean 'weights'?"),
        ("infer.py", ["-c", "CONFIG"], "add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE"),
        ("infer.py", ["-c", "CONFIG", "--infer_img", "none.jpg"], "the image none.jpg does not exist"),
        ("train.py", ["-c", "CONFIG", "--eval", "perhaps"], "perhaps"),
    ],
)
def test_mistakes_are_one_line(repo_root: Path, tmp_path: Path, tool: str, arguments: list[str], message: str) -> None:
    config = str(repo_root / "configs" / "htc" / "htc_r50_fpn_1x_coco.yml")
    done = _run(repo_root, tool, *[config if item == "CONFIG" else item for item in arguments], cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if "Warning" not in line and "warn" not in line]
    assert done.returncode == 1 and len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert os.listdir(tmp_path) == []
