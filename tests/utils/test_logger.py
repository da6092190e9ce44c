"""Who logs what."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppdet.utils.logger import add_log_file, setup_logger

pytestmark = pytest.mark.same_on_every_paddle

CODE = """
from ppdet.utils.logger import setup_logger
log = setup_logger("ppdet.x")
setup_logger("ppdet.y")
log.info("hello"); log.error("broken")
"""


@pytest.mark.parametrize(("rank", "expected"), [("0", ["hello", "broken"]), ("1", ["broken"])])
def test_rank_0_speaks_others_complain(repo_root: Path, rank: str, expected: list[str]) -> None:
    env = {**os.environ, "PADDLE_TRAINER_ID": rank, "PYTHONPATH": str(repo_root)}
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == expected
    assert all(line.startswith("[rank 1]") == (rank == "1") for line in lines)


def test_log_file_replaces_the_one_before(tmp_path: Path) -> None:
    log = setup_logger("ppdet.somewhere")
    add_log_file(tmp_path / "a.log")
    log.info("one")
    add_log_file(tmp_path / "b.log")
    log.info("two")
    assert "one" in (tmp_path / "a.log").read_text() and "two" not in (tmp_path / "a.log").read_text()
    assert "two" in (tmp_path / "b.log").read_text()
    handlers = logging.getLogger("ppdet").handlers
    assert sum(isinstance(handler, logging.FileHandler) for handler in handlers) == 1
