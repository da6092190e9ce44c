"""Messages about a worker process that died or does not respond."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from ppdet.data.worker import JOURNAL_PAGE

__all__ = ["death", "stuck"]

_SHOWN = 3
"""Number of processes, and of calls of each, that a message names."""

_STATES = {
    "T": "is stopped (SIGSTOP)",
    "t": "is stopped by a debugger",
    "D": "is waiting for a disk or a file server",
    "Z": "has ended",
}


def death(process: subprocess.Popen[Any], journal: int | None) -> str:
    """Return why a worker process has ended, and the image that it was loading."""
    try:
        status = process.wait(2.0)
    except subprocess.TimeoutExpired:
        cause = "closed its pipe"
    else:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
        cause = f"killed by {name}" if name else f"exit status {status}"
    image = _image(journal)
    return (
        f"a data loading process died ({cause}){f' while loading {image}' if image else ''}; the usual cause is too "
        "little memory: lower worker_num or batch_size, or give the container more memory"
    )


def stuck(workers: Sequence[tuple[int, int | None, int]], patience: float) -> str:
    """Describe what the workers are doing when no batch has arrived for ``patience`` seconds.

    Args:
        workers: (process id, journal, number of tasks) of each, beginning with the one whose batch is needed next.
        patience: seconds.
    """
    shown = [_whereabouts(process, journal, tasks) for process, journal, tasks in workers[:_SHOWN]]
    more = f" and {len(workers) - _SHOWN} more" if len(workers) > _SHOWN else ""
    return (
        f"no batch arrived for {patience:g} s: {'; '.join(shown)}{more}. Check these images and their disk; if loading "
        "may take that long, raise worker_timeout of the reader (0: wait forever)"
    )


def _whereabouts(process: int, journal: int | None, tasks: int) -> str:
    who = f"data loading process {process}"
    state = _STATES.get(_state(process), "")
    if not tasks:
        return f"{who} {state or 'is idle'}"
    image = _image(journal)
    calls = "" if state or not image or journal is None else _calls(process, journal)
    doing = f"is loading {image}" if image else "has not started"
    return " ".join(part for part in (who, state and f"{state} and", doing, calls and f"in {calls}") if part)


def _image(journal: int | None) -> str:
    """Return the image that a worker is loading, empty if none or unknown."""
    if journal is None:
        return ""
    return os.pread(journal, JOURNAL_PAGE, 0).split(b"\0")[0].decode("utf-8", "replace")


def _state(process: int) -> str:
    """Return the letter of a process's state; empty if the system does not provide it."""
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _calls(process: int, journal: int) -> str:
    """Return the innermost calls of a worker, which it notes upon SIGUSR1."""
    try:
        os.kill(process, signal.SIGUSR1)
    except OSError:
        return ""
    text = ""
    for _ in range(20):
        time.sleep(0.05)
        seen = os.pread(journal, 16 * 1024, JOURNAL_PAGE).decode("utf-8", "replace")
        if seen and seen == text:
            break
        text = seen
    calls = re.findall(r'File "(.*?)", line (\d+) in (\S+)', text)
    return " < ".join(f"{name} ({os.path.basename(file)}:{line})" for file, line, name in calls[:_SHOWN])
