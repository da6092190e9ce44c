"""Plots of a training: losses, box AP, mask AP and learning rate over the steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.common.atomic import atomic_path
from ppdet.utils.stats import ScalarTable

__all__ = ["curves_figure", "draw_curves"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
"""The palette of Okabe and Ito, which is safe for colour-blind readers, and two more colours."""
_DASHES = ("-", "--", ":", "-.")
_LOSS = re.compile(r"loss_(?P<group>[^_]+)_?(?P<kind>.*?)(_?stage(?P<stage>[0-9]+))?")
_AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def draw_curves(path: str | Path, losses: ScalarTable, scores: ScalarTable) -> None:
    """Write `curves_figure` to a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    figure = curves_figure(losses, scores)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def curves_figure(losses: ScalarTable, scores: ScalarTable) -> Any:
    """Plot a training: one panel each for losses, learning rate, and, if available, box AP and mask AP.

    Args:
        losses: columns ``loss``, ``loss_*`` and ``lr``.
        scores: columns ``bbox_AP``, ``bbox_AP50``, …, ``mask_AP``, …; AP from 0 to 1, or -1 if it is undefined.

    Returns:
        The matplotlib figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("bbox", "mask") if f"{kind}_AP" in scores.names()]
    figure = Figure(figsize=(15, 4.2 * (1 + bool(kinds))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + bool(kinds), 6)
    _losses(figure.add_subplot(grid[0, :4]), losses)
    _rate(figure.add_subplot(grid[0, 4:]), losses)
    for place, kind in enumerate(kinds):
        width = 6 // len(kinds)
        _scores(figure.add_subplot(grid[1, place * width : (place + 1) * width]), scores, kind)
    return figure


def _losses(axes: Any, table: ScalarTable) -> None:
    """Plot the total loss and its terms: the colour shows the branch, the dashes the stage, the opacity the kind."""
    parts = [_LOSS.fullmatch(name) for name in table.names()]
    terms = [part for part in parts if part]
    groups = list(dict.fromkeys(part["group"] for part in terms))
    if "loss" in table.names():
        _line(axes, table, "loss", "total", color="black", linewidth=2.4, zorder=3)
    for index, group in enumerate(groups):
        members = [part for part in terms if part["group"] == group]
        kinds = list(dict.fromkeys(part["kind"] for part in members))  # classification, regression
        for part in members:
            style = {
                "color": _COLOURS[index % len(_COLOURS)],
                "linestyle": _DASHES[int(part["stage"] or 0) % len(_DASHES)],
                "alpha": (1.0, 0.5, 0.75)[kinds.index(part["kind"]) % 3],
            }
            _line(axes, table, part[0], part[0][len("loss_") :].replace("_", " "), linewidth=1.3, **style)
    axes.set(title="losses", xlabel="step")
    _finish(axes, "log")


def _rate(axes: Any, table: ScalarTable) -> None:
    _line(axes, table, "lr", "lr", color=_COLOURS[0], linewidth=1.6)
    axes.set(title="learning rate", xlabel="step", ylim=(0, None))
    _finish(axes, "linear", legend=False)


def _scores(axes: Any, table: ScalarTable, kind: str) -> None:
    highest = 0.0
    for index, column in enumerate(_AP_COLUMNS):
        style = {"linewidth": 2.4 if column == "AP" else 1.2, "linestyle": "-" if index < 3 else "--"}
        colour = "black" if column == "AP" else _COLOURS[index % len(_COLOURS)]
        values = _line(axes, table, f"{kind}_{column}", column, color=colour, marker="o", markersize=3.5, **style)
        highest = max([highest, *values])
    axes.set(title=f"{'box' if kind == 'bbox' else 'mask'} AP", xlabel="step")
    axes.set_ylim(0, min(1.0, max(0.1, 1.15 * highest)))
    _finish(axes, "linear")


def _line(axes: Any, table: ScalarTable, column: str, label: str, **style: Any) -> list[float]:
    """Plot a column; values that are not finite, and undefined AP (-1), leave gaps.

    Returns:
        The values that were plotted.
    """
    steps, values = table.column(column)
    shown = [value if math.isfinite(value) and value >= 0 else math.nan for value in values]
    finite = [value for value in shown if not math.isnan(value)]
    if finite:
        if _isolated(shown):
            style.setdefault("marker", "o")
            style.setdefault("markersize", 3.5)
        axes.plot(steps, shown, label=label, **style)
    return finite


def _isolated(values: Sequence[float]) -> bool:
    """Return whether some value has no finite neighbour, so that no line segment would show it."""
    gaps = [True, *(math.isnan(value) for value in values), True]
    return any(not gap and before and after for before, gap, after in zip(gaps, gaps[1:], gaps[2:]))


def _finish(axes: Any, scale: str, legend: bool = True) -> None:
    """Add the grid, the scales (steps from 0), and a legend next to the panel, where it hides no curve."""
    axes.grid(True, alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.lines:
        last = max(float(max(line.get_xdata())) for line in axes.lines)
        axes.set_xlim(0, 1.02 * last)
        axes.set_yscale(scale)
        if legend:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", va="center", color="gray")
