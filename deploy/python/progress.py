"""What a long run says: on a screen a bar of tqdm where that is installed, else a line from time to time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from deploy.common.printable import printable

tqdm: Any
try:
    from tqdm import tqdm
except ImportError:  # a bar is a comfort, not a need
    tqdm = None

__all__ = ["Progress", "say"]

_SECONDS = 5.0
"""Between two lines without a bar."""


def say(text: str) -> None:
    """Print lines, above a bar if there is one."""
    text = printable(text, kept="\n")
    if tqdm is None:
        print(text, flush=True)
    else:
        tqdm.write(text)
        sys.stdout.flush()


class Progress:
    """Progress through images or frames, with the time that remains.

    Args:
        total: how many there are; None if nobody knows.
        unit: what they are.
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._begun = self._spoken = time.perf_counter()
        wanted = tqdm is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, leave=False) if wanted else None

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        elif time.perf_counter() - self._spoken >= _SECONDS:
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
