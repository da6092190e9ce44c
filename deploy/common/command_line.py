"""Command line parsing, and the main function wrapper of all tools."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from deploy.common.errors import UserError
from deploy.common.interruption import INTERRUPTED, handle_interruption
from deploy.common.printable import one_line

__all__ = [
    "Parser",
    "float_in_range",
    "int_in_range",
    "main_guard",
    "non_empty",
    "non_negative_int",
    "positive_int",
    "probability",
    "str2bool",
    "thread_count",
]

_TRUE = ("true", "yes", "on", "1", "t", "y")
_FALSE = ("false", "no", "off", "0", "f", "n")


def str2bool(text: str) -> bool:
    """Parse the value of a flag.

    Raises:
        argparse.ArgumentTypeError: the text is neither true nor false.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got '{text}'")


def int_in_range(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a ``type=`` for argparse that accepts the integers from ``low`` to ``high``.

    The default upper limit is the largest 32-bit integer, which is the largest value that OpenCV and Paddle accept.
    """
    bounds = f"of {low} or more" if high >= 2**31 - 1 else f"from {low} to {high}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number {bounds}, got '{_shortened(text)}'")
        return value

    return convert


def float_in_range(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a ``type=`` for argparse that accepts the finite numbers from ``low`` to ``high``."""
    bounds = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, got '{_shortened(text)}'")
        return value

    return convert


positive_int = int_in_range(1)
non_negative_int = int_in_range(0)
probability = float_in_range(0, 1)
thread_count = int_in_range(1, 1024)
"""The upper limit prevents the exhaustion of the threads of a machine."""


def non_empty(text: str) -> str:
    """Accept the path of a file or folder; an empty path, which would refer to the working directory, is refused.

    Raises:
        argparse.ArgumentTypeError: the path is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, got an empty text (is a shell variable empty?)")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


class Parser(argparse.ArgumentParser):
    """Argument parser that shows default values and raises UserError for invalid command lines."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**kwargs)

    def add_flag(self, name: str, default: bool = False, help: str | None = None) -> None:
        """Add a flag that is true without a value and otherwise has the given value, as in ``--eval False``."""
        self.add_argument(name, nargs="?", const=True, default=default, type=str2bool, metavar="BOOL", help=help)

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of ending the process."""
        raise UserError(f"{message}; see {self.prog} --help")


def main_guard(main: Callable[[], Any]) -> NoReturn:
    """Run a tool and exit: with status 0, with ``error: …`` and status 1 for a UserError, with 130 for Ctrl-C.

    The message is a single printable line, regardless of the names and values from files that it quotes.

    ``main`` may return an exit status; None means 0. Any other exception is a bug and keeps its traceback, except that
    the install command is shown if PaddlePaddle is missing.
    """
    with handle_interruption() as interruption:
        try:
            status = _status(main)
        except Exception:
            if not interruption.seen:
                raise
            # Ctrl-C during the import of a compiled module is reported as a failed import.
            print("interrupted", file=sys.stderr)
            status = INTERRUPTED
    sys.exit(status)


def _status(main: Callable[[], Any]) -> int:
    """Run a tool and return its exit status; if it is not 0, the reason is printed."""
    status = 1
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paddle":
            raise
        command = "pip install -r requirements-cpu.txt (GPU: requirements-gpu.txt)"
        print(f"error: PaddlePaddle is not installed; run: {command}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:  # the process that reads the output (head, less) has ended, so nothing can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
