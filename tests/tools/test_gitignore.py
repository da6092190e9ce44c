"""Generated and downloaded files are ignored by git; files of the project are not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_on_every_paddle


def _git(repo_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=repo_root, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("model.pdparams", True),
        ("a/model.pdopt", True),
        ("a/model.safetensors", True),
        ("weights/htc.pth", True),
        ("backbone.pkl", True),
        ("dataset/mine/images/a.jpg", True),
        ("dataset/mine.zip", True),
        ("dataset/demo/data/val/000001.jpg", True),
        ("dataset/README.md", False),
        ("dataset/demo/new_module.py", False),
        ("configs/new.yml", False),
        ("tests/checkpoint/formats/pth/another.pth", False),
    ],
)
def test_what_git_ignores(repo_root: Path, name: str, ignored: bool) -> None:
    done = _git(repo_root, "check-ignore", "--no-index", "-q", name)
    if done.returncode == 128:
        pytest.skip("not a clone")
    assert (done.returncode == 0) is ignored


def test_no_committed_file_is_ignored(repo_root: Path) -> None:
    assert _git(repo_root, "ls-files", "-ci", "--exclude-standard").stdout == ""
