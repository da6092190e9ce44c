"""Command lines: flags, complaints, and the frame every tool runs in."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from deploy.common.errors import UserError
from deploy.common.interruption import INTERRUPTED, noticed
from deploy.common.printable import one_line

__all__ = [
    "Parser",
    "main_guard",
    "non_empty",
    "non_negative_int",
    "number",
    "positive_int",
    "probability",
    "str2bool",
    "thread_count",
    "whole_number",
]

_TRUE = ("true", "yes", "on", "1", "t", "y")
_FALSE = ("false", "no", "off", "0", "f", "n")


def str2bool(text: str) -> bool:
    """Read a flag's value.

    Raises:
        argparse.ArgumentTypeError: neither a word for true nor one for false.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got '{text}'")


def whole_number(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a ``type=`` for argparse that accepts the whole numbers from ``least`` to ``most``.

    The upper limit is by default the largest 32-bit integer, which is all that OpenCV and Paddle take.
    """
    bounds = f"of {least} or more" if most >= 2**31 - 1 else f"from {least} to {most}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number {bounds}, got '{_shortened(text)}'")
        return value

    return convert


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return a ``type=`` for argparse that accepts the finite numbers from ``least`` to ``most``."""
    bounds = f"of {least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, got '{_shortened(text)}'")
        return value

    return convert


positive_int = whole_number(1)
non_negative_int = whole_number(0)
probability = number(0, 1)
thread_count = whole_number(1, 1024)
"""More threads than machines have processors would only exhaust them."""


def non_empty(text: str) -> str:
    """Read the path of a file or a folder; an empty one would silently mean the working folder.

    Raises:
        argparse.ArgumentTypeError: there is nothing in it.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, got nothing (is a variable of the shell empty?)")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


class Parser(argparse.ArgumentParser):
    """Argument parser that shows defaults; a wrong command line raises UserError."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**kwargs)

    def add_flag(self, name: str, default: bool = False, help: str | None = None) -> None:
        """Add a flag: bare it is true, with a value (``--eval False``) it is what the value says."""
        self.add_argument(name, nargs="?", const=True, default=default, type=str2bool, metavar="BOOL", help=help)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as UserError instead of ending the process."""
        raise UserError(f"{message}; see {self.prog} --help")


def main_guard(main: Callable[[], Any]) -> NoReturn:
    """Run a tool and end the process: status 0, ``error: …`` and 1 for a user's mistake, 130 for Ctrl-C.

    The message is one printable line, whatever names and values from files it quotes.

    ``main`` may return an exit status; None means 0. Any other exception is a defect of the program and keeps its
    traceback, except that a missing PaddlePaddle is answered with the line that installs it.
    """
    with noticed() as interruption:
        try:
            status = _status(main)
        except Exception:
            if not interruption.seen:
                raise
            # Ctrl-C in the middle of the import of a compiled module, which makes it a failed import.
            print("interrupted", file=sys.stderr)
            status = INTERRUPTED
    sys.exit(status)


def _status(main: Callable[[], Any]) -> int:
    """Run a tool and return its exit status, having printed why it is not 0."""
    status = 1
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paddle":
            raise
        command = "pip install -r requirements-cpu.txt (GPU: requirements-gpu.txt)"
        print(f"error: PaddlePaddle is not installed: {command}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) went away: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
