"""``make demo``: installed packages and repeated runs. The tools are replaced by a script that logs its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_on_every_paddle

RUN = "output/htc_r18_demo"
PYTHON = """#!/bin/sh
echo "$@" >> commands
case "$1" in
tools/train.py) mkdir -p {run}; touch {run}/best_model.pdparams; exit $(cat status 2>/dev/null || echo 0);;
esac
"""


@pytest.fixture()
def place(repo_root: Path, tmp_path: Path) -> Path:
    """Create a folder with the Makefile and an environment that is considered installed."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    shutil.copy(repo_root / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-cpu.txt", "requirements-dev.txt", "requirements-serving.txt"):
        shutil.copy(repo_root / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(run=RUN))
    python.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def _make(place: Path, *arguments: str, code: int = 0) -> tuple[list[str], str]:
    """Run make and return the commands of the tools and the output."""
    (place / "commands").unlink(missing_ok=True)
    done = subprocess.run(
        ["make", *arguments], cwd=place, env={**os.environ, "VENV": ".venv"}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode == 0) == (code == 0), done.stderr
    file = place / "commands"
    return file.read_text().splitlines() if file.exists() else [], done.stdout


def test_the_demo_from_start_to_end_and_again(place: Path) -> None:
    commands, printed = _make(place, "demo")
    assert [command.split()[0] for command in commands] == [
        "dataset/demo/make_demo.py", "tools/train.py", "tools/infer.py",
    ], "the training has evaluated the last weights already"  # fmt: skip
    assert commands[1] == "tools/train.py -c configs/demo/htc_r18_demo.yml --eval -r auto"
    for line in (
        f"pictures  {RUN}/pictures",
        f"curves    {RUN}/curves.png",
        "next      .venv/bin/python tools/infer.py",
    ):
        assert line in printed
    commands, _ = _make(place, "demo")
    assert commands[1].endswith("--eval --overwrite"), "a complete demo trains anew"


def test_an_interrupted_demo_goes_on(place: Path) -> None:
    _make(place, "demo")
    (place / "status").write_text("130")
    assert _make(place, "demo", code=2)[0][1].endswith("--overwrite")
    assert _make(place, "demo", code=2)[0][1].endswith("-r auto")
    (place / "status").unlink()
    assert _make(place, "demo")[0][1].endswith("-r auto")
    assert _make(place, "demo")[0][1].endswith("--overwrite")


def test_the_demo_needs_no_tools_of_the_tests(place: Path) -> None:
    (place / ".venv" / ".installed").unlink()
    _, printed = _make(place, "-n", "demo")
    assert "pip install" in printed and "requirements-dev" not in printed
    assert "-q -r" not in printed, "pip shows its progress"
    _, printed = _make(place, "-n", "test")
    assert "requirements-dev.txt" in printed
