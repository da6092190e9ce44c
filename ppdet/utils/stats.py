"""Numbers of a training: smoothed timings, scalars as CSV files, and a picture of the curves."""

from __future__ import annotations

import csv
import datetime
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.common.atomic import atomic_path, atomic_writer, write_failure
from ppdet.utils.errors import UserError

__all__ = ["ScalarTable", "SmoothedValue", "draw_curves", "format_duration"]


class SmoothedValue:
    """A series of numbers: mean of the last few and of all."""

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
        """Mean of the last ``window`` numbers, 0 before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    @property
    def mean(self) -> float:
        """Mean of all numbers, 0 before the first."""
        return self._total / self._count if self._count else 0.0


def format_duration(seconds: float) -> str:
    """Return ``[D days, ]H:MM:SS``."""
    return str(datetime.timedelta(seconds=int(max(seconds, 0.0))))


class ScalarTable:
    """A CSV file with one row a step; columns come from the first row and grow as new names appear.

    Args:
        path: the file; rows of an earlier part of the run are kept.
        before: steps from here on belong to a part of the run that is done again; they are dropped.
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
        """Append one row; the file has it when this returns.

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
                    os.fsync(stream.fileno())  # a checkpoint that survives a power cut must not know more than this
            except OSError as error:
                raise UserError(f"cannot write {self.path}: {write_failure(error)}") from error

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """Return steps and values of the rows that have ``name``."""
        pairs = [(row["step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def names(self) -> list[str]:
        """Column names apart from ``step``."""
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
    """Read a table; a line that a killed process left half written is dropped."""
    rows = []
    with open(path, newline="", encoding="utf-8") as stream:
        for texts in csv.DictReader(stream):
            try:
                row = {name: float(text) for name, text in texts.items() if name and text not in (None, "")}
            except (TypeError, ValueError):
                continue
            if "step" in row:
                rows.append(row)
    return rows


def draw_curves(path: str | Path, losses: ScalarTable, scores: ScalarTable) -> None:
    """Draw losses over steps (left) and AP over steps (right) into one PNG.

    Args:
        path: picture to write.
        losses: columns whose names begin with ``loss``.
        scores: columns of AP values, 0..1.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _plot(left, losses, [name for name in losses.names() if name.startswith("loss")], "total")
    left.set(title="losses", xlabel="iteration")
    left.set_yscale("log")
    _plot(right, scores, [name for name in scores.names() if "AP" in name], "")
    right.set(title="AP", xlabel="iteration", ylim=(0, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _plot(axes: object, table: ScalarTable, names: Sequence[str], total: str) -> None:
    """Plot columns as lines; the sum of losses is drawn strongest."""
    for name in names:
        steps, values = table.column(name)
        pairs = [(step, value) for step, value in zip(steps, values) if math.isfinite(value)]
        if not pairs:
            continue
        strong = name == "loss" if total else True
        axes.plot(  # type: ignore[attr-defined]
            [step for step, _ in pairs],
            [value for _, value in pairs],
            label=name,
            linewidth=2.0 if strong else 0.9,
            color="black" if name == "loss" else None,
            marker="" if total else ".",
        )
    axes.grid(True, alpha=0.3)  # type: ignore[attr-defined]
    if table.rows and names:
        axes.legend(fontsize=6, ncols=2 if len(names) > 8 else 1)  # type: ignore[attr-defined]
