"""Ctrl-C in a command line program: no traceback, exit status 130, whatever it is doing.

Needs nothing but the standard library's smallest modules: it is imported before all others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["INTERRUPTED", "Interruption", "leave_while_importing", "noticed"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""


def leave_while_importing() -> None:
    """Let Ctrl-C end the process at once: while a program imports its packages there is nothing to be lost.

    An exception would not do: compiled modules turn it into a failed import. `noticed` suspends this state.
    """
    if _ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _ours(*handlers: object) -> bool:
    """Whether SIGINT is handled by one of ``handlers``, and may be handled by another from here."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in handlers


class Interruption:
    """Handler of SIGINT which raises KeyboardInterrupt, as Python's own does, and remembers it.

    In the middle of an import it ends the process: some packages swallow whatever goes wrong in one of theirs.
    """

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal.

        Raises:
            KeyboardInterrupt: always.
        """
        self.seen = True
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _leave(number, frame)
            frame = frame.f_back
        raise KeyboardInterrupt


@contextmanager
def noticed() -> Iterator[Interruption]:
    """Context of a program's work, which hands out whether it was interrupted.

    After it a program that called `leave_while_importing` can be left at once again: what remains is Python's own
    clean-up, in which an exception would only be printed.

    Whoever handles SIGINT in another way than Python's (a service, a notebook) goes on doing so.
    """
    interruption = Interruption()
    ours = _ours(signal.default_int_handler, _leave)
    before = signal.getsignal(signal.SIGINT)
    if ours:
        signal.signal(signal.SIGINT, interruption)
    try:
        yield interruption
    finally:
        if ours and _ours(interruption):
            if before is _leave:
                with suppress(OSError, ValueError):  # leaving at once would lose what is buffered
                    sys.stdout.flush()
            signal.signal(signal.SIGINT, before)
