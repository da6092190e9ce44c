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


def run(repo_root: Path, folder: Path, fails: str = "nothing") -> tuple[int, list[str], str]:
    """Run the script; return its status, the commands of make and the output."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in {"make": MAKE, "chromedriver": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    commands = folder / "commands"
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "COMMANDS": str(commands),
        "FAILS": fails,
    }
    script = str(repo_root / ".ci" / "run")
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, commands.read_text().splitlines(), done.stdout


def test_both_versions(repo_root: Path, tmp_path: Path) -> None:
    status, commands, printed = run(repo_root, tmp_path)
    assert status == 0 and commands == [*INSTALL, "pytest", "test-paddle26"]
    assert "made pytest" in printed and "made test-paddle26" in printed


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        ("lint", INSTALL),
        ("pytest", [*INSTALL, "pytest", "test-paddle26"]),
        ("test-paddle26", [*INSTALL, "pytest", "test-paddle26"]),
    ],
)
def test_any_failure_is_a_failure(repo_root: Path, tmp_path: Path, fails: str, expected: list[str]) -> None:
    """A failure with one version of Paddle does not hide those with the other."""
    status, commands, _ = run(repo_root, tmp_path, fails)
    assert status != 0 and commands == expected
