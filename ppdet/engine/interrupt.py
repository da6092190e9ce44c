"""Ctrl-C (and a cluster's SIGTERM) as a question that the training loop answers between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ppdet.engine.env import gather_objects, world_size

__all__ = ["AgreedStop", "StopRequest"]


class AgreedStop(KeyboardInterrupt):
    """All processes stop here, after what was asked of one of them."""


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets a mark; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A fork of this process (by a user's own code): it obeys SIGTERM, and leaves Ctrl-C to its parent.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def agreed(self, step: int, interval: int) -> bool:
        """Whether to stop after ``step``: at once in a single process, with several at the next multiple of
        ``interval``, where all of them ask each other, so that none waits for one that has left.
        """
        if world_size() == 1:
            return self._asked
        return step % interval == 0 and any(gather_objects(self._asked))
