"""Two processes on the CPU: same weights on both, every image evaluated once, mistakes found at the start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ppdet.engine.weights import read_state


def _launch(folder: Path, mode: str) -> tuple[int, str]:
    script = Path(__file__).parent / "launched.py"
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
    done = subprocess.run(
        [*command, str(script), str(folder), mode], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    logs = [(folder / "log" / f"workerlog.{rank}").read_text() for rank in (0, 1)]
    return done.returncode, "\n".join(logs)


def test_two_processes_train_and_evaluate(tmp_path: Path) -> None:
    status, log = _launch(tmp_path, "plain")
    assert status == 0, log
    # gathered fingerprints of the trained parameters, printed by both
    prints = re.findall(r"PRINTS \[(\d+), (\d+)\]", log)
    assert len(prints) == 2 and len({value for pair in prints for value in pair}) == 1
    assert log.count("AP 0.040, best so far 0.040") == 2, "four images, each once; only rank 0 says so"
    assert log.count("[2/2] eta") == 2
    assert set(read_state(tmp_path / "output" / "fake" / "best_model")) >= {"head.weight"}


def test_different_configurations_are_refused(tmp_path: Path) -> None:
    status, log = _launch(tmp_path, "differ")
    assert status != 0
    assert "error: the processes of this training have different configurations" in log and "Traceback" not in log
