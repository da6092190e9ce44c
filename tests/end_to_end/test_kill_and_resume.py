"""A real HTC in training, killed and resumed through the command line; folders that cannot be written to."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state
from ppdet.engine.training.checkpoint import find_resumable
from ppdet.utils.errors import UserError
from tests.end_to_end.conftest import Workplace

OPTIONS = ["epoch=3", "snapshot_iter=1", "use_ema=true", "worker_num=2", "TrainReader.batch_size=1"]
KILLS = 4


def _resumable(run: Path) -> bool:
    try:
        find_resumable(run)
    except UserError:
        return False
    return True


def _killed_after(workplace: Workplace, run: Path, seconds: float, *arguments: str) -> bool:
    """Train, with a SIGKILL so long after the first step can begin; whether the kill came in time."""
    tool = str(workplace.root / "tools" / "train.py")
    resume = ["-r"] if _resumable(run) else []
    command = [sys.executable, tool, "-c", str(workplace.config), *arguments, *resume]
    process = subprocess.Popen(
        command, cwd=workplace.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "steps per epoch" in line:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


def _rows(file: Path) -> list[dict[str, str]]:
    timings = ("batch_cost", "data_cost", "images_per_second")
    with open(file, newline="") as stream:
        return [{key: text for key, text in row.items() if key not in timings} for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_killed_htc_ends_as_the_one_that_was_not(workplace: Workplace) -> None:
    arguments = ["--eval", "--enable_ce", "True", "-o", *OPTIONS]
    begun = time.monotonic()
    workplace.tool("train", *arguments, f"save_dir={workplace.folder}/whole")
    seconds = time.monotonic() - begun
    whole, run = workplace.folder / "whole" / "small", workplace.folder / "killed" / "small"
    rng = random.Random(0)
    arguments.append(f"save_dir={workplace.folder}/killed")
    kills = sum(_killed_after(workplace, run, rng.uniform(0, seconds / 3), *arguments) for _ in range(KILLS))
    assert kills >= 3
    state = load_pickle(f"{find_resumable(run)}.pdopt")["state"]
    if state["epoch"] < 3 or state["eval_due"]:
        workplace.tool("train", *arguments, "-r")
    assert _rows(run / "train_scalars.csv") == _rows(whole / "train_scalars.csv")
    assert _rows(run / "eval_scalars.csv") == _rows(whole / "eval_scalars.csv")
    ours, theirs = (load_pickle(folder / "model_final.pdopt") for folder in (run, whole))
    assert {**ours["state"], "started": 0} == {**theirs["state"], "started": 0}
    for kind in ("optimizer", "model"):
        assert all(np.array_equal(ours[kind][name], array) for name, array in theirs[kind].items())
    for stem in ("model_final", "best_model"):
        saved = read_state(run / f"{stem}.pdparams")
        assert all(np.array_equal(saved[name], array) for name, array in read_state(whole / stem).items())
    assert not list(run.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("train", ["-o", "save_dir={file}/runs", "TrainDataset.anno_path=nowhere.json"]),
        ("eval", ["--output_eval", "{file}/results", "-o", "EvalDataset.anno_path=nowhere.json"]),
        ("export_model", ["--output_dir", "{file}/exported", "-o", "weights=nowhere"]),
    ],
)
def test_a_folder_that_cannot_be_made_is_said_first(workplace: Workplace, tool: str, arguments: list[str]) -> None:
    file = workplace.folder / "file"
    file.write_text("")
    printed = workplace.tool(tool, *(text.format(file=file) for text in arguments), code=1)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: cannot create the folder {file}/")
    assert "Traceback" not in printed and "nowhere" not in printed
