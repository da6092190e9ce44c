"""Progress of long runs: a tqdm progress bar on a terminal if tqdm is installed, or a line at regular intervals."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from deploy.common.printable import printable

tqdm: Any
try:
    from tqdm import tqdm
except ImportError:  # tqdm is optional
    tqdm = None

__all__ = ["Progress", "print_lines"]

_SECONDS = 5.0
"""Seconds between two lines if there is no progress bar."""


def print_lines(text: str, stream: TextIO | None = None) -> None:
    """Print lines without disturbing a progress bar.

    Args:
        text: one or more lines.
        stream: output stream; standard output by default.
    """
    text = printable(text, kept="\n")
    target = sys.stdout if stream is None else stream
    if tqdm is None:
        print(text, file=target)
    else:
        tqdm.write(text, file=target)
    target.flush()


class Progress:
    """Progress of the processing of images or frames, including the remaining time.

    Args:
        total: total number of items; None if it is unknown.
        unit: name of the items.
        visible: show a progress bar or print lines; otherwise, items are only counted.
    """

    def __init__(self, total: int | None, unit: str, visible: bool = True) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._start = self._last_line = time.perf_counter()
        self._visible = visible
        show_bar = visible and tqdm is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, leave=False) if show_bar else None

    def __enter__(self) -> Progress:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def advance(self, count: int = 1) -> None:
        """Record that ``count`` more items have been processed."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._visible and time.perf_counter() - self._last_line >= _SECONDS:
            self._last_line = time.perf_counter()
            print_lines(self.line())

    def line(self) -> str:
        """Describe the progress, for example ``120 of 300 frames, 4.10 frames/s, 0:00:44 left``."""
        rate = self.done / max(self.seconds, 1e-9)
        known = "" if self.total is None else f" of {self.total}"
        text = f"{self.done}{known} {self.unit}, {rate:.2f} {self.unit}/s"
        if self.total is None or not 0 < self.done < self.total:
            return text
        left = round((self.total - self.done) / rate)
        return f"{text}, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
