"""Two processes on the CPU: same weights on both, every image evaluated once, the end of one is the end of both."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppdet.checkpoint.weights import array_fingerprint, read_state

SCRIPT = str(Path(__file__).parent / "launched.py")
LAUNCH = [sys.executable, "-m", "paddle.distributed.launch"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}


def _launch(
    folder: Path, mode: str, victim: int = 1, processes: int = 2, late: float = 0.0
) -> tuple[int, list[str], str]:
    """Train; return the launcher's exit status, what each rank printed, and what the launcher printed.

    Args:
        folder: of logs and run.
        mode: what happens in the middle of the first epoch.
        victim: the rank that it happens to.
        processes: number of ranks.
        late: seconds by which the last of the other ranks is late with its message.
    """
    command = [*LAUNCH, "--nproc_per_node", str(processes), "--log_dir", "log", SCRIPT, str(folder), mode]
    done = subprocess.run(
        [*command, str(victim), str(late)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    logs = [(folder / "log" / f"workerlog.{rank}").read_text() for rank in range(processes)]
    return done.returncode, logs, done.stdout + done.stderr


def test_two_processes_train_and_evaluate(tmp_path: Path) -> None:
    status, logs, _ = _launch(tmp_path, "plain")
    log = "".join(logs)
    assert status == 0, log
    # gathered fingerprints of the trained parameters, printed by both
    prints = re.findall(r"PRINTS \[(\d+), (\d+)\]", log)
    assert len(prints) == 2 and len({value for pair in prints for value in pair}) == 1
    assert log.count("box AP 0.040, best so far 0.040") == 2, "four images, each once; only rank 0 says so"
    assert log.count("[2/2] loss") == 2
    assert set(read_state(tmp_path / "output" / "fake" / "best_model")) >= {"head.weight"}


def test_all_evaluate_the_weights_that_are_saved(tmp_path: Path) -> None:
    """Batch statistics, and averages of them, are each process's own."""
    status, logs, _ = _launch(tmp_path, "average")
    assert status == 0, logs
    pairs = re.findall(r"EVALUATED \[(\d+), (\d+)\]", logs[0])
    assert len(pairs) == 2 and all(first == second for first, second in pairs) and pairs[0] != pairs[1]
    assert int(pairs[1][0]) == array_fingerprint(read_state(tmp_path / "output" / "fake" / "model_final"))


def test_accumulated_gradients_are_exchanged(tmp_path: Path) -> None:
    """A batch whose gradients stayed on its rank would leave different weights."""
    status, logs, _ = _launch(tmp_path, "accumulate")
    assert status == 0, logs
    prints = re.findall(r"PRINTS \[(\d+), (\d+)\]", logs[0])
    assert len(prints) == 1 and prints[0][0] == prints[0][1]
    assert logs[0].count("[1/1] loss") == 2
    # two images, two batches, two processes
    assert "base_lr scaled to 0.025 for 8 images per step (set for 32)" in logs[0]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("configuration", "have different configurations: checksum "),
        pytest.param(
            "options",
            "have different options: eval True, resume None, overwrite False, precision float32 on rank 0, eval F",
            marks=pytest.mark.same_on_every_paddle,
        ),
        pytest.param(
            "data",
            "have different numbers of images: 8 on rank 0, 9 on rank 1; start all with the same command",
            marks=pytest.mark.same_on_every_paddle,
        ),
    ],
)
def test_processes_that_do_not_belong_together(tmp_path: Path, mode: str, message: str) -> None:
    status, logs, _ = _launch(tmp_path, mode)
    assert status != 0
    assert all(f"error: the processes of this training {message}" in log for log in logs)
    assert "Traceback" not in "".join(logs)


def test_unwritable_folder(tmp_path: Path) -> None:
    """Only rank 0 writes."""
    status, logs, _ = _launch(tmp_path, "folder")
    assert status != 0
    assert "error: cannot create the folder" in logs[0] and "Not a directory" in logs[0]
    assert "error: training stopped, rank 0 failed: cannot create the folder" in logs[1]
    assert "Traceback" not in "".join(logs)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("mode", "own", "told"),
    [
        ("killed", "", "ended without a message: killed (out of memory?) or crashed"),
        ("interrupted", "interrupted", "failed: interrupted"),
        ("user error", "error: cannot read broken.jpg", "failed: cannot read broken.jpg"),
        ("defect", "ZeroDivisionError: no such", "failed: ZeroDivisionError: no such box"),
    ],
)
def test_the_end_of_one_is_the_end_of_all(tmp_path: Path, mode: str, own: str, told: str, victim: int) -> None:
    begun = time.perf_counter()
    status, logs, printed = _launch(tmp_path, mode, victim)
    assert time.perf_counter() - begun < 60
    assert status != 0
    assert own in logs[victim]
    assert f"error: training stopped, rank {victim} {told}" in logs[1 - victim], logs[1 - victim]
    assert "training stopped" not in logs[victim]
    # on the launcher's screen: what rank 0 prints, or that it was killed
    assert (told if victim == 1 else own or "Container rank 0 status failed") in printed


def test_a_killed_process_leaves_time_for_the_message_of_a_slow_one(tmp_path: Path) -> None:
    """Gloo's exception in `backward` would abort the process before its thread has written the message."""
    status, logs, _ = _launch(tmp_path, "killed", victim=1, late=1.5)
    assert status != 0
    assert "error: training stopped, rank 1 ended without a message: killed (out of memory?) or crashed" in logs[0]
    assert "Aborted" not in logs[0] and "terminate called" not in logs[0]


def test_rank_0_passes_the_message_on(tmp_path: Path) -> None:
    """Nobody leaves before the last one, which is slow, has written its message."""
    status, logs, _ = _launch(tmp_path, "user error", victim=1, processes=3, late=2.0)
    assert status != 0
    for log in (logs[0], logs[2]):
        assert "error: training stopped, rank 1 failed: cannot read broken.jpg" in log


def test_nobody_waits_for_a_process_that_failed_and_lives(tmp_path: Path) -> None:
    """Its connections stay open, so only the message tells rank 0, which is inside a collective operation."""
    begun = time.perf_counter()
    status, logs, printed = _launch(tmp_path, "hangs")
    assert time.perf_counter() - begun < 60
    assert status != 0
    assert "error: training stopped, rank 1 failed: cannot read broken.jpg" in logs[0]
    assert "error: training stopped, rank 1 failed: cannot read broken.jpg" in printed


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_stopped_ends_all(tmp_path: Path, victim: int) -> None:
    """It lives, its connections are open, and nothing comes from it."""
    begun = time.perf_counter()
    status, logs, _ = _launch(tmp_path, "stopped", victim)
    assert time.perf_counter() - begun < 75
    assert status != 0
    said = f"error: training stopped, rank {victim} has sent no heartbeat for 4 s (heartbeat_timeout)"
    assert said in logs[1 - victim] and "stopped (SIGSTOP), or its node hangs" in logs[1 - victim], logs[1 - victim]


@pytest.mark.parametrize("victim", [0])
def test_a_main_thread_that_hangs_ends_all(tmp_path: Path, victim: int) -> None:
    """Its heartbeats go on, so only the lack of progress tells; the message begins with the rank that is behind."""
    status, logs, _ = _launch(tmp_path, "disk hangs", victim, late=2.0)
    assert status != 0
    said = "error: training stopped, no process has made progress for 5 s (progress_timeout): rank"
    text = f"{said} {victim} waits for the images of step 2; rank {1 - victim} computes step 2; look at the first"
    assert text in logs[0] and text in logs[1], logs


def _launch_two_nodes(folder: Path, mode: str, victim: int) -> list[str]:
    """Train on two nodes, both of which must fail; return what each rank printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        master = f"127.0.0.1:{free.getsockname()[1]}"
    nodes = []
    for node in (0, 1):
        command = [*LAUNCH, "--master", master, "--nnodes", "2", "--rank", str(node), "--nproc_per_node", "1"]
        command += ["--log_dir", f"log{node}", SCRIPT, str(folder), mode, str(victim), "0"]
        nodes.append(subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL))
    assert all(node.wait(timeout=60) != 0 for node in nodes)
    return [(folder / f"log{node}" / "workerlog.0").read_text() for node in (0, 1)]


def test_two_nodes(tmp_path: Path) -> None:
    """A launcher ends its own node only; the process of the other node hears of the failure from ours."""
    logs = _launch_two_nodes(tmp_path, "user error", 1)
    assert "error: training stopped, rank 1 failed: cannot read broken.jpg" in logs[0]
    assert "error: cannot read broken.jpg" in logs[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_failure_before_all_have_joined(tmp_path: Path, victim: int) -> None:
    """Paddle would have the other node wait for a quarter of an hour."""
    begun = time.perf_counter()
    logs = _launch_two_nodes(tmp_path, "early", victim)
    assert time.perf_counter() - begun < 60
    assert "error: no such configuration" in logs[victim]
    text = f"error: training stopped, rank {victim} ended before all had joined; see the end of its log"
    assert text in logs[1 - victim]


@pytest.mark.parametrize("victim", [1])
def test_a_rank_that_does_not_join_is_named(tmp_path: Path, victim: int) -> None:
    status, logs, _ = _launch(tmp_path, "absent", victim)
    assert status != 0
    text = f"error: rank {victim} (127.0.0.1) did not report within 6 s (join_timeout); look at"
    assert text in logs[1 - victim], logs
