"""Ctrl-C during imports, during the work of a program, and while a package suppresses exceptions."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.common.command_line import main_guard
from deploy.common.interruption import INTERRUPTED, exit_on_interrupt, handle_interruption

pytestmark = pytest.mark.same_on_every_paddle

SLOW_IMPORT = """
import sys
sys.path[:0] = [{root!r}, {folder!r}]
from deploy.common.interruption import exit_on_interrupt
exit_on_interrupt()
{early}
from deploy.common.command_line import main_guard
def main():
    {late}
    print("went on")
main_guard(main)
"""
SWALLOWS = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:
    pass
"""
WORKS = "import time; print('importing', flush=True); time.sleep(60)"


@pytest.mark.parametrize(("early", "late"), [("import swallows", "pass"), ("pass", "import swallows"), ("pass", WORKS)])
def test_one_line_and_status_130(repo_root: Path, tmp_path: Path, early: str, late: str) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    code = SLOW_IMPORT.format(root=str(repo_root), folder=str(tmp_path), early=early, late=late)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert (process.returncode, out, err) == (INTERRUPTED, "", "interrupted\n")


ENDS = """
import atexit, sys, time
sys.path.insert(0, {root!r})
from deploy.common.interruption import exit_on_interrupt
exit_on_interrupt()
from deploy.common.command_line import main_guard
def clean_up():
    print("cleaning up", file=sys.stderr, flush=True)
    time.sleep(60)
atexit.register(clean_up)
main_guard(lambda: print("done"))
"""


def test_in_the_clean_up_of_python(repo_root: Path) -> None:
    code = ENDS.format(root=str(repo_root))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stderr.readline() == "cleaning up\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (INTERRUPTED, "done\n", "interrupted\n")


def test_a_failed_import_of_a_compiled_module(capsys: pytest.CaptureFixture[str]) -> None:
    """Compiled modules convert the KeyboardInterrupt to an ImportError."""

    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    with pytest.raises(SystemExit) as ended:
        main_guard(main)
    assert ended.value.code == INTERRUPTED and capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_stay_errors() -> None:
    def main() -> None:
        raise ImportError("no such module")

    with pytest.raises(ImportError, match="no such module"):
        main_guard(main)


def test_other_handlers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        own = signal.getsignal(signal.SIGINT)
        exit_on_interrupt()
        with handle_interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT] and not interruption.seen and signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
