"""Loading processes, ranks and run folders that get into each other's way."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from ppdet.engine.training import run_lock as lock_module
from ppdet.engine.training.run_lock import LOCK, run_lock
from tests.hostile.conftest import Bench


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_patience_that_is_none(bench: Bench, value: str) -> None:
    bench.refused("train", "-o", f"TrainReader.worker_timeout={value}", names="worker_timeout")


@pytest.mark.parametrize("key", ["heartbeat_timeout", "progress_timeout", "join_timeout"])
def test_limits_that_are_none(bench: Bench, key: str) -> None:
    bench.refused("train", "-o", f"{key}=-1", names=(key, "at least 0"))


def test_broken_image_in_a_worker(bench: Bench) -> None:
    content = bench.annotations()
    for image in content["images"]:
        bench.write(f"train/{image['file_name']}", b"\xff\xd8 no picture")
    bench.write("annotations/instances_train.json", content)
    options = ["worker_num=1", f"TrainDataset.dataset_dir={bench.folder}", "TrainDataset.semantic=null"]
    options += ["HybridTaskCascade.fused_semantic_head=null"]
    bench.refused("train", "-o", *options, names=(str(bench.folder / "train"),))


def test_two_trainings_in_one_folder(bench: Bench) -> None:
    """Refused before anything of the first is touched; afterwards the folder is free, however the first ended."""
    run = bench.folder / "output" / "small"
    code = f"import sys; sys.path.insert(0, {os.getcwd()!r})\n"
    code += "from pathlib import Path\nfrom ppdet.engine.training.run_lock import run_lock\n"
    code += f"with run_lock(Path({str(run)!r})):\n    print('in', flush=True)\n    sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for kill in (True, False):
        first = subprocess.Popen([sys.executable, "-c", code], **pipes)  # type: ignore[call-overload]
        lines = [first.stdout.readline() for _ in range(1 if kill else 2)]
        assert lines[-1] == "in\n" and (kill or "ended without removing it" in lines[0])
        said = ("in use", f"process {first.pid} on host {platform.node()}", "run_name=NAME", str(run / LOCK))
        bench.refused("train", "-o", "epoch=1", names=said)
        bench.refused("train", "--overwrite", "-o", "epoch=1", names=said)
        assert [file.name for file in run.iterdir()] == [LOCK]
        if kill:
            first.kill()
        first.communicate()
        assert (run / LOCK).exists() == kill, "a killed process leaves its file, which the next one takes over"
    with run_lock(run), pytest.raises(Exception, match="in use: this process has been training there"), run_lock(run):
        pass
    assert not (run / LOCK).exists()


@pytest.mark.parametrize("lives", [True, False])
def test_training_of_another_host(bench: Bench, monkeypatch: pytest.MonkeyPatch, lives: bool) -> None:
    """Where the file system's locks end at each host, its signs of life count."""
    monkeypatch.setattr(lock_module, "_SILENT", 2)
    content = json.dumps({"host": "elsewhere", "pid": 7, "since": "yesterday"})
    file = bench.write(f"output/small/{LOCK}", content)
    if not lives:
        with run_lock(file.parent):
            assert json.loads(file.read_text())["pid"] == os.getpid()
        return
    monkeypatch.setattr(lock_module.time, "sleep", lambda seconds: os.utime(file, (1, 1)))
    said = ("process 7 on host elsewhere", "since yesterday", f"remove {file}")
    bench.refused("train", "-o", "epoch=1", names=said)
    assert file.read_text() == content
