"""Statistics of a training: smoothed timings, and scalars in CSV files."""

from __future__ import annotations

import csv
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from deploy.common.atomic import atomic_writer, write_failure
from deploy.common.printable import one_line
from ppdet.utils.errors import UserError

__all__ = ["Reminder", "ScalarTable", "SmoothedValue", "format_duration"]

_LONGEST_NAME = 200
"""Maximum number of characters in the name of a column."""
REMIND_SECONDS = 60.0


class SmoothedValue:
    """A series of numbers with the mean of the most recent ones and of all.

    Args:
        window: how many numbers count as recent.
    """

    def __init__(self, window: int = 20) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._total = 0.0
        self._count = 0

    def update(self, value: float) -> None:
        """Append a number."""
        self._recent.append(value)
        self._total += value
        self._count += 1

    @property
    def recent(self) -> float:
        """Mean of the last ``window`` numbers; 0 if there are none."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def mean(self) -> float:
        """Mean of all numbers; 0 if there are none."""
        return self._total / self._count if self._count else 0.0


class Reminder:
    """Tells when a slow loop should log its progress: at the beginning and after a minute without output.

    Args:
        seconds: the interval; None is a minute.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = REMIND_SECONDS if seconds is None else seconds
        self._last: float | None = None

    def due(self) -> bool:
        """Return whether nothing has been logged for that time."""
        return self._last is None or time.monotonic() - self._last >= self._seconds

    def reset(self) -> None:
        """Record that something has been logged."""
        self._last = time.monotonic()


def format_duration(seconds: float) -> str:
    """Format a duration as ``H:MM:SS`` with any number of hours."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class ScalarTable:
    """A CSV file with one row per step; columns are added when new names appear.

    Args:
        path: the file; its rows from an earlier part of the run are kept.
        before: rows from this step on are dropped, because that part of the run is repeated.
    """

    def __init__(self, path: str | Path, before: int | None = None) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._columns: list[str] = ["step"]
        if before is not None and self.path.is_file():
            self.rows = [row for row in _read(self.path) if row["step"] < before]
            self._columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
        self._rewrite()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row and write it to the disk.

        Raises:
            UserError: the file cannot be written.
        """
        row = {"step": float(step), **{name: float(value) for name, value in values.items()}}
        self.rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
        else:
            try:
                with open(self.path, "a", newline="", encoding="utf-8") as stream:
                    self._writer(stream).writerow(_texts(row))
                    stream.flush()
                    os.fsync(
                        stream.fileno()
                    )  # a checkpoint that survives a power failure must not be ahead of this file
            except OSError as error:
                raise UserError(f"cannot write {self.path}: {write_failure(error)}") from error

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Return the steps and values of the rows that contain ``name``."""
        pairs = [(row["step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self) -> list[str]:
        """Return the names of the columns except ``step``."""
        return self._columns[1:]

    def _writer(self, stream: object) -> csv.DictWriter[str]:
        return csv.DictWriter(stream, self._columns, lineterminator="\n")  # type: ignore[arg-type]

    def _rewrite(self) -> None:
        with atomic_writer(self.path, "w") as stream:
            writer = self._writer(stream)
            writer.writeheader()
            writer.writerows(_texts(row) for row in self.rows)


def _texts(row: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.7g}" for name, value in row.items()}


def _read(path: Path) -> list[dict[str, float]]:
    """Read a table; an incomplete line left by a killed process is dropped.

    Raises:
        UserError: the file is not such a table.
    """
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            names = reader.fieldnames or ["step"]
            if names[0] != "step" or len(set(names)) != len(names) or not all(map(_is_name, names)):
                raise ValueError("its first line does not contain the columns of a training")
            for texts in reader:
                try:
                    row = {name: float(text) for name, text in texts.items() if name and text not in (None, "")}
                except (TypeError, ValueError):
                    continue
                if math.isfinite(row.get("step", math.nan)):
                    rows.append(row)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot continue {path} ({one_line(error, 200)}): move it away to start a new file") from error
    return rows


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()
