"""What a long run says: on a screen a bar of tqdm where that is installed, else a line from time to time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from deploy.common.printable import printable

tqdm: Any
try:
    from tqdm import tqdm
except ImportError:  # a bar is a comfort, not a need
    tqdm = None

__all__ = ["Progress", "say"]

_SECONDS = 5.0
"""Between two lines without a bar."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines, above a bar if there is one.

    Args:
        text: the lines.
        stream: standard output by default.
    """
    text = printable(text, kept="\n")
    target = sys.stdout if stream is None else stream
    if tqdm is None:
        print(text, file=target)
    else:
        tqdm.write(text, file=target)
    target.flush()


class Progress:
    """Progress through images or frames, with the time that remains.

    Args:
        total: how many there are; None if nobody knows.
        unit: what they are.
        visible: print a bar or lines; else it only counts.
    """

    def __init__(self, total: int | None, unit: str, visible: bool = True) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._begun = self._spoken = time.perf_counter()
        self._visible = visible
        wanted = visible and tqdm is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, leave=False) if wanted else None

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._begun

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._visible and time.perf_counter() - self._spoken >= _SECONDS:
            self._spoken = time.perf_counter()
            say(self.line())

    def line(self) -> str:
        """Such as ``120 of 300 frames, 4.1 frames/s, 0:00:44 left``."""
        rate = self.done / max(self.seconds, 1e-9)
        known = "" if self.total is None else f" of {self.total}"
        text = f"{self.done}{known} {self.unit}, {rate:.2f} {self.unit}/s"
        if self.total is None or not 0 < self.done < self.total:
            return text
        left = round((self.total - self.done) / rate)
        return f"{text}, {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
