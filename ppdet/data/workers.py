"""Processes that load batches: how they start, and what ends them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import cv2
from paddle.io import DataLoader

from ppdet.utils.logger import setup_logger

__all__ = ["obituary", "prepare_worker", "shared_memory_is_small", "start_workers"]

logger = setup_logger(__name__)

_LOOK = 2.0
"""Seconds between two looks of a worker at whether the main process is still there."""

_SMALL_SHM = 512 * 2**20
"""Bytes of /dev/shm below which batches go through pipes: a container's usual 64 MB do not hold a few of them."""


def start_workers(loader: DataLoader) -> Any:
    """Start the workers, leaving the process's reaction to SIGCHLD as it was.

    paddle.io's own raises from wherever the main thread happens to be, mostly in the middle of a training step. Its
    reader thread notices a dead worker within five seconds all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def prepare_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends the workers, and the other processor cores to the other workers.

    A main process that is killed ends no workers, and paddle.io's stay for good with what they hold of the memory: each
    looks after it.
    """
    # A launcher's signal goes to a whole group; the main process needs batches up to where all processes stop.
    os.setpgid(0, 0)
    threading.Thread(target=_follow, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _follow() -> None:
    """End this process soon after its parent."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(_LOOK)
    os._exit(1)


def _give_up(error: Exception, batch: Any) -> None:
    """End a worker that cannot hand a batch over (no room for a file in /dev/shm, too many open files).

    Python would print a traceback and lose the batch, and the main process would wait for it for ever.
    """
    os.write(2, f"a data loading process cannot hand a batch over: {error}\n".encode())
    os._exit(1)


def obituary(workers: Sequence[Any]) -> str:
    """One line on why batches stopped coming."""
    causes = []
    for worker in workers:
        worker.join(0.1)
        if worker.exitcode:
            number = -worker.exitcode
            name = signal.Signals(number).name if number in set(signal.Signals) else ""
            causes.append(f"killed by {name}" if name else f"exit status {worker.exitcode}")
    return (
        f"a data loading process died ({', '.join(sorted(set(causes))) or 'cause unknown'}); mostly the memory is too "
        "small (lower worker_num or batch_size) or /dev/shm is full (docker run --shm-size=8g, or "
        "use_shared_memory: false in the reader)"
    )


def shared_memory_is_small() -> bool:
    """Return whether /dev/shm is too small for batches, and say so in the log."""
    try:
        state = os.statvfs("/dev/shm")
    except OSError:  # no such folder (macOS): paddle.io uses other means there
        return False
    size = state.f_frsize * state.f_blocks
    if size >= _SMALL_SHM:
        return False
    logger.warning(
        "/dev/shm has only %d MB: batches go through pipes instead, which is slower (docker run --shm-size=8g)",
        size // 2**20,
    )
    return True
