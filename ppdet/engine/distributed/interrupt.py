"""Ctrl-C (and the SIGTERM of a cluster) as a request that the training answers between two steps.

The request is acknowledged at once by a thread, because the main thread may be inside a call of Paddle that takes a
minute, during which no signal handler of Python runs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from deploy.common.interruption import INTERRUPTED
from ppdet.engine.distributed.env import gather_objects, rank, world_size

__all__ = ["AgreedStop", "StopRequest", "stop_if_asked"]

REPEAT_SECONDS = 1.0
"""A second SIGINT within this time is a repetition of the first: `make` and scripts pass on the terminal's signal."""
LEAVE_SECONDS = 3.0
"""How long the main thread may take to exit in an orderly way after the second Ctrl-C."""
AGREE_SECONDS = 15.0
"""Longest time between two exchanges of whether to stop; a launcher kills its processes 30 s after its signal."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END = 0
"""Byte that ends the acknowledging thread; no signal has this number."""


class AgreedStop(KeyboardInterrupt):
    """All processes stop here, because one of them was asked to."""


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only records the request; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self._requested = False
        self._since = 0.0
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}
        self._next_check, self._checked_step, self._checked_time = 0, 0, time.monotonic()
        self._answering: _Answering | None = None

    def __enter__(self) -> StopRequest:
        global _current
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                self._previous[signum] = signal.signal(signum, self._handle)
            self._answering = _Answering()
        _current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        global _current
        _current = None
        if self._answering is not None:
            self._answering.close()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._previous and isinstance(error, AgreedStop) and world_size() > 1:
            # A launcher sends SIGTERM several times, which would turn this orderly exit into a crash for the others.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A fork of this process (by a user's code) obeys SIGTERM and leaves Ctrl-C to its parent.
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        now = time.monotonic()
        if self._requested and signum == signal.SIGINT and now - self._since > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if not self._requested:
            self._requested, self._since = True, now

    def agreed(self, step: int, interval: int, always: bool = False) -> bool:
        """Return whether to stop after ``step``.

        A single process stops at once. Several processes exchange their requests, so that none waits for one that has
        left: after the first step, then every ``interval`` steps, or more often if those take longer than
        `AGREE_SECONDS`.

        Args:
            step: the same on all processes.
            interval: largest number of steps between two exchanges.
            always: exchange the requests now.
        """
        if world_size() == 1:
            return self._requested
        if step < self._next_check and not always:
            return False
        if not self._next_check:
            self._checked_step = step - 1
        now = time.monotonic()
        seconds = (now - self._checked_time) / max(1, step - self._checked_step)
        answers = gather_objects((self._requested, seconds))
        slowest = max(seconds for _, seconds in answers)
        self._next_check = step + max(1, min(interval, int(AGREE_SECONDS / max(slowest, 1e-6))))
        self._checked_step, self._checked_time = step, time.monotonic()
        return any(requested for requested, _ in answers)


_current: StopRequest | None = None


def stop_if_asked() -> None:
    """End an evaluation within a training that was asked to stop; its weights have been saved.

    Several processes evaluate to the end, because none of them can leave alone.

    Raises:
        AgreedStop: the training was asked to stop.
    """
    if _current is not None and _current.requested and world_size() == 1:
        raise AgreedStop


class _Answering:
    """A thread that acknowledges signals at once; Python writes their numbers to a pipe when they arrive."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ctrl-c", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        first: float | None = None
        while True:
            for signum in os.read(self._reader, 64):
                now = time.monotonic()
                if signum == _END:
                    return
                if signum not in _SIGNALS:
                    continue  # such as the end of a child process
                if first is None:
                    first = now
                    when = "after this step" if world_size() == 1 else "as soon as all processes can"
                    _say(f"stopping {when}; press Ctrl-C again to leave immediately")
                elif signum == signal.SIGINT and now - first > REPEAT_SECONDS:
                    _say("leaving; the checkpoints written so far are complete")
                    if not self._left.wait(LEAVE_SECONDS):
                        os._exit(INTERRUPTED)
                    return

    def close(self) -> None:
        """End the thread and restore how signals are noticed."""
        self._left.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._writer, bytes([_END]))
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)


def _say(message: str) -> None:
    """Print a line without taking any lock, which the main thread may hold."""
    if rank() == 0:
        os.write(2, f"\n{message}\n".encode())


def _in_forked_process() -> None:
    """Keep the signals of a loader's worker process out of its parent's pipe."""
    if _current is not None:
        with suppress(ValueError):  # forked by a thread other than the main one, which handles no signals
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
