"""Ctrl-C in a training: an answer at once, an orderly end, and a second one that does not wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ppdet.engine.distributed import interrupt
from ppdet.engine.distributed.interrupt import AgreedStop, StopRequest, stop_if_asked
from ppdet.engine.training.checkpoint import find_resumable
from ppdet.engine.training.run_folder import checkpoints

ANSWER = "stopping after this step; press Ctrl-C again to leave immediately"


class _Training:
    """A process of ``stopped.py``."""

    def __init__(self, folder: Path, where: str, seconds: float) -> None:
        script = str(Path(__file__).parent / "stopped.py")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"}
        self.process = subprocess.Popen(
            [sys.executable, script, str(folder), where, str(seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        )  # fmt: skip
        self.lines: list[str] = []
        self.times: list[float] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self.times.append(time.monotonic())

    def wait_for(self, pattern: str, seconds: float = 60.0) -> float:
        """Return when a line with the pattern came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line, when in zip(self.lines, self.times):
                if re.search(pattern, line):
                    return when
            time.sleep(0.02)
        raise AssertionError(f"no '{pattern}' in {self.lines[-20:]}")

    def press(self) -> float:
        """Send SIGINT and return when."""
        self.process.send_signal(signal.SIGINT)
        return time.monotonic()

    def end(self, seconds: float = 60.0) -> str:
        """Wait for the end and return what was printed; it has to be that of an interrupted process."""
        assert self.process.wait(seconds) == 130, self.lines[-20:]
        self._reader.join()
        printed = "\n".join(self.lines)
        assert "Traceback" not in printed
        return printed


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_the_answer_comes_at_once_and_the_end_in_order(tmp_path: Path, where: str) -> None:
    training = _Training(tmp_path, where, 3.0)
    training.wait_for("^busy$")
    pressed = training.press()
    assert training.wait_for(ANSWER) - pressed < 1.0, "while the main thread is inside a call"
    printed = training.end()
    run = tmp_path / "output" / "fake"
    if where == "step":
        assert "stopped epoch 1, step 1 of 4; resume with: -r " in printed and checkpoints(run) == ["0_1"]
    else:
        assert "stopped in the evaluation; resuming with -r repeats it" in printed and checkpoints(run) == ["0"]
        assert printed.count("busy") == 1, "not one batch more"


def test_the_second_one_does_not_wait(tmp_path: Path) -> None:
    run = tmp_path / "output" / "fake"
    training = _Training(tmp_path, "evaluation", 600.0)
    training.wait_for("^busy$")
    before = {file.name: file.read_bytes() for file in run.glob("0.*")}
    training.press()
    training.wait_for(ANSWER)
    training.press()  # the same one, passed on by a launcher
    time.sleep(interrupt.REPEAT_SECONDS + 0.3)
    assert training.process.poll() is None
    pressed = training.press()
    training.wait_for("leaving; the checkpoints written so far are complete")
    training.end()
    assert time.monotonic() - pressed < interrupt.LEAVE_SECONDS + 2.0
    assert {file.name: file.read_bytes() for file in run.glob("0.*")} == before and len(before) == 3
    assert find_resumable(run) == run / "0"


def test_only_a_training_that_was_asked_stops() -> None:
    stop_if_asked()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    threads = threading.active_count()
    with StopRequest() as stop:
        stop_if_asked()
        assert not stop.agreed(1, 20)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.agreed(1, 20)
        with pytest.raises(AgreedStop):
            stop_if_asked()
    stop_if_asked()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert threading.active_count() == threads


def test_a_launcher_that_repeats_itself_does_not_cut_the_end_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        for processes, handler in ((1, before), (2, signal.SIG_IGN)):
            monkeypatch.setattr(interrupt, "world_size", lambda processes=processes: processes)
            with pytest.raises(AgreedStop), StopRequest():
                raise AgreedStop
            assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_process_keeps_its_signals_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        time.sleep(0.2)
        assert not stop.requested
    assert "stopping" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "interval", "asked_at"),
    [(0.01, 4, [1, 5, 9]), (6.0, 20, [1, 3, 5, 7, 9]), (100.0, 20, list(range(1, 11)))],
)
def test_several_processes_ask_each_other_in_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, interval: int, asked_at: list[int]
) -> None:
    """A launcher kills after half a minute; slow steps are not to use it up."""
    now, questions = [0.0], []

    def gather(value: tuple[bool, float]) -> list[tuple[bool, float]]:
        questions.append(step)
        return [value, (step >= 10, value[1] / 2)]

    monkeypatch.setattr(interrupt, "world_size", lambda: 2)
    monkeypatch.setattr(interrupt, "gather_objects", gather)
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])
    stop = StopRequest()
    for step in range(1, 11):
        now[0] += seconds
        assert stop.agreed(step, interval) == (step == 10 and 10 in asked_at)
    assert questions == asked_at
    assert stop.agreed(step, interval, always=True) and questions[-1] == 10
