"""Handling of Ctrl-C in command line programs: no traceback and exit status 130, at any time.

This module is imported before all others and therefore only uses small modules of the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["INTERRUPTED", "Interruption", "exit_on_interrupt", "handle_interruption"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in a shell."""


def exit_on_interrupt() -> None:
    """Make Ctrl-C exit immediately, for the time in which a program imports its packages.

    An exception cannot be used, because compiled modules convert it to a failed import. `handle_interruption` suspends
    this state.
    """
    if _ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, _exit)


def _exit(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _ours(*handlers: object) -> bool:
    """Return whether SIGINT is handled by one of ``handlers`` and whether this thread may change the handler."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in handlers


class Interruption:
    """Handler of SIGINT that raises KeyboardInterrupt, like Python's default handler, and records it in ``seen``.

    During an import, it ends the process, because some packages suppress all errors of their imports.
    """

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal.

        Raises:
            KeyboardInterrupt: always.
        """
        self.seen = True
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                _exit(signum, frame)
            frame = frame.f_back
        raise KeyboardInterrupt


@contextmanager
def handle_interruption() -> Iterator[Interruption]:
    """Context manager for the main function of a program; yields an object that records whether it was interrupted.

    When the block ends, the state set by `exit_on_interrupt` is restored, because only Python's clean-up remains, in
    which an exception would just be printed.

    Custom handlers of SIGINT (of a service or a notebook) are not replaced.
    """
    interruption = Interruption()
    ours = _ours(signal.default_int_handler, _exit)
    before = signal.getsignal(signal.SIGINT)
    if ours:
        signal.signal(signal.SIGINT, interruption)
    try:
        yield interruption
    finally:
        if ours and _ours(interruption):
            if before is _exit:
                with suppress(OSError, ValueError):  # an immediate exit would lose buffered output
                    sys.stdout.flush()
            signal.signal(signal.SIGINT, before)
