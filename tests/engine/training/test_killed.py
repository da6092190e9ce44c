"""Trainings killed by SIGKILL, anywhere, end as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state
from ppdet.engine.training.run_lock import LOCK

pytestmark = pytest.mark.same_on_every_paddle

TIMINGS = ("batch_cost", "data_cost", "images_per_second")


def _run(folder: Path, *arguments: Any) -> dict[str, int]:
    """Have trainings killed and resumed; return how often each was."""
    script = str(Path(__file__).parent / "killed.py")
    command = [sys.executable, script, str(folder), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    counts: dict[str, int] = json.loads(done.stdout.rpartition("RESULT ")[2])
    for name in counts:
        _compare(folder / name / "output" / "fake", folder / f"whole{name[0]}" / "output" / "fake")
    return counts


def _table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return [{key: text for key, text in row.items() if key not in TIMINGS} for row in csv.DictReader(stream)]


def _same(ours: Any, theirs: Any, where: str) -> None:
    """Compare nested containers of arrays, bit for bit."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            _same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), where
    else:
        assert ours == theirs, where


def _compare(run: Path, whole: Path) -> None:
    for name in ("model_final", "best_model"):
        if name == "model_final":
            ours, theirs = (load_pickle(folder / f"{name}.pdopt") for folder in (run, whole))
            ours["state"]["started"] = theirs["state"]["started"]
            _same(ours, theirs, f"{run} {name}")
        for suffix in (".pdparams", ".safetensors"):
            _same(read_state(run / (name + suffix)), read_state(whole / (name + suffix)), f"{run} {name}{suffix}")
    assert load_pickle(run / "model_final.pdopt")["state"]["best_ap"] > 0
    for table in ("train_scalars.csv", "eval_scalars.csv"):
        rows = _table(run / table)
        assert len(rows) >= 4 and rows == _table(whole / table), f"{run} {table}"
    left = set(os.listdir(run)) - {LOCK}  # of a kill after the last file, for the next start to take over
    assert left == set(os.listdir(whole)), "nothing half-written, nothing half-way is left"


def test_kills_at_random_moments(tmp_path: Path) -> None:
    counts = _run(tmp_path, "random", 0, 4)
    assert sum(counts.values()) >= 8


def test_kills_in_the_middle_of_writing(tmp_path: Path) -> None:
    counts = _run(tmp_path, "write", 0, 53)
    assert len(counts) >= 8 and set(counts.values()) == {1}


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path: Path) -> None:
    counts = _run(tmp_path, "random", 100, 20)
    assert sum(counts.values()) >= 40


@pytest.mark.slow
def test_kills_at_every_position_of_writing(tmp_path: Path) -> None:
    counts = _run(tmp_path, "write", 0, 1)
    # killed in the very last of them, a training has nothing left to do
    assert len(counts) >= 300 and sum(counts.values()) >= len(counts) - 8
