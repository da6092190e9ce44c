"""C++'s terminate handler: an action before an uncaught exception aborts the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import ctypes, os, sys, threading, time
from ppdet.engine.distributed.terminate import before_abort

def end():
    started.wait()
    os.write(1, b"message of another thread\\n")
    if sys.argv[1] == "ends":
        os._exit(7)

def action():
    started.set()
    time.sleep(0.5)
    os.write(1, b"waited\\n")

started = threading.Event()
threading.Thread(target=end, daemon=True).start()
with before_abort(action):
    with before_abort(lambda: os.write(1, b"inner\\n")):
        pass
    if sys.argv[1] == "inside":
        terminate = ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev
        thread = threading.Thread(target=terminate)
        thread.start()
        thread.join()
    # PyDLL keeps the interpreter to itself, as Paddle does where it lets the exception pass
    ctypes.PyDLL("libstdc++.so.6")._ZSt9terminatev()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the program names GCC's library")
@pytest.mark.parametrize(
    ("mode", "status", "printed"),
    [
        ("ends", 7, ["message of another thread"]),
        ("aborts", -signal.SIGABRT, ["message of another thread", "waited"]),
        ("inside", -signal.SIGABRT, ["message of another thread", "waited"]),
    ],
)
def test_other_threads_go_on_before_the_process_aborts(mode: str, status: int, printed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == printed
    assert ("terminate called without an active exception" in done.stderr) == (status < 0)
