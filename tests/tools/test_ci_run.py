"""``.ci/run`` tests both versions of Paddle and fails if either does. ``make`` is replaced by a script."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_on_every_paddle

MAKE = """#!/bin/sh
echo "made $*"
echo "$*" >> "$COMMANDS"
case "$*" in *"$FAILS"*) exit 2;; esac
"""
INSTALL = ["install-dev install-paddle26", "lint"]


def run(repo_root: Path, folder: Path, cores: int, fails: str = "nothing") -> tuple[int, list[str], str]:
    """Run the script; return its status, the commands of make and the output."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    stubs = {
        "make": MAKE,
        "nproc": f"#!/bin/sh\necho {cores}\n",
        "awk": "#!/bin/sh\necho 16\n",
        "chromedriver": "#!/bin/sh\n",
    }
    for name, text in stubs.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    commands = folder / "commands"
    commands.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "COMMANDS": str(commands),
        "FAILS": fails,
        "TMPDIR": str(folder),
    }
    script = str(repo_root / ".ci" / "run")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60)
    left = [path.name for path in folder.iterdir() if path.name.startswith("tmp.")]
    assert left == [], "the log of the background run is removed"
    return done.returncode, commands.read_text().splitlines(), done.stdout


@pytest.mark.parametrize("cores", [1, 2])
def test_both_versions(repo_root: Path, tmp_path: Path, cores: int) -> None:
    status, commands, printed = run(repo_root, tmp_path, cores)
    assert status == 0
    assert commands[:2] == INSTALL and sorted(commands[2:]) == ["pytest", "test-paddle26"]
    assert "made pytest" in printed and "made test-paddle26" in printed


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("fails", ["lint", "pytest", "test-paddle26"])
def test_any_failure_is_a_failure(repo_root: Path, tmp_path: Path, cores: int, fails: str) -> None:
    status, commands, printed = run(repo_root, tmp_path, cores, fails)
    assert status != 0 and fails in commands
    assert f"made {fails}" in printed
    if cores == 2 and fails != "lint":
        assert len(commands) == 4, "a failure of one version does not hide the other"
