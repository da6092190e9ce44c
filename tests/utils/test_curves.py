"""The picture of the curves: panels, lines that can be told apart, gaps, legends beside the curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppdet.utils.curves import curves_figure, draw_curves
from ppdet.utils.stats import ScalarTable

PARTS = ["loss_rpn_cls", "loss_rpn_reg", "loss_semantic"]
PARTS += [f"loss_{kind}_stage{stage}" for stage in range(3) for kind in ("bbox_cls", "bbox_reg", "mask")]
AP = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def _tables(folder: Path, steps: int, evaluations: int, kinds: tuple[str, ...] = ("bbox", "mask")) -> Any:
    losses, scores = ScalarTable(folder / "l.csv"), ScalarTable(folder / "s.csv")
    for step in range(1, steps + 1):
        losses.add(20 * step, {"lr": 0.02, **{name: 1 / step for name in PARTS}, "loss": len(PARTS) / step})
    for number in range(1, evaluations + 1):
        scores.add(200 * number, {f"{kind}_{name}": 0.01 * number for kind in kinds for name in AP})
    return losses, scores


def _panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def _drawn(figure: Any) -> Any:
    figure.canvas.draw()
    return figure.canvas.get_renderer()


def test_panels_and_lines_that_can_be_told_apart(tmp_path: Path) -> None:
    figure = curves_figure(*_tables(tmp_path, 30, 4))
    panels = _panels(figure)
    assert list(panels) == ["losses", "learning rate", "box AP", "mask AP"]
    total, *parts = panels["losses"].lines
    assert total.get_label() == "total" and total.get_color() == "black"
    assert total.get_linewidth() > 1.5 * max(line.get_linewidth() for line in parts)
    for name, count in (("losses", 13), ("box AP", 6), ("mask AP", 6)):
        looks = {(line.get_color(), line.get_linestyle(), line.get_alpha()) for line in panels[name].lines}
        assert len(looks) == len(panels[name].lines) == count, name
    assert [line.get_label() for line in panels["mask AP"].lines] == list(AP[:6])
    assert panels["losses"].get_yscale() == "log"
    colours = {line.get_label(): line.get_color() for line in parts}
    assert colours["bbox cls stage0"] == colours["bbox reg stage2"] != colours["mask stage0"]


def test_legends_are_beside_the_curves(tmp_path: Path) -> None:
    figure = curves_figure(*_tables(tmp_path, 30, 4))
    renderer = _drawn(figure)
    areas = [axes.get_window_extent(renderer) for axes in figure.axes]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == 3
    for legend in legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(area) for area in areas)
        assert box.x1 <= figure.bbox.x1 and box.y0 >= 0, "cut off at the border"


@pytest.mark.parametrize(
    ("steps", "evaluations", "kinds", "panels"),
    [
        (0, 0, (), ["losses", "learning rate"]),
        (1, 0, (), ["losses", "learning rate"]),
        (5, 1, ("bbox", "mask"), ["losses", "learning rate", "box AP", "mask AP"]),
        (5, 2, ("bbox",), ["losses", "learning rate", "box AP"]),
    ],
)
def test_little_to_show(
    tmp_path: Path, steps: int, evaluations: int, kinds: tuple[str, ...], panels: list[str]
) -> None:
    tables = _tables(tmp_path, steps, evaluations, kinds)
    figure = curves_figure(*tables)
    assert list(_panels(figure)) == panels
    if steps == 1:  # a line of one point is nothing without a marker
        assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.lines)
        assert len(figure.axes[0].lines) == 13
    draw_curves(tmp_path / "c.png", *tables)
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture.shape[1] == 1500 and picture.shape[0] in (420, 840)


def test_what_is_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    losses, scores = _tables(tmp_path, 4, 0)
    for step, value in ((100, math.nan), (120, math.inf), (140, 2.0), (160, math.nan), (180, 1.0), (200, 1.0)):
        losses.add(step, {"loss": value, "lr": 0.02})
    scores.add(100, {"bbox_AP": 0.3, "bbox_APl": -1.0})
    figure = curves_figure(losses, scores)
    total = figure.axes[0].lines[0]
    assert np.isnan(total.get_ydata()[4:6]).all() and total.get_ydata()[6] == 2.0
    assert total.get_marker() == "o", "the point between two gaps shows"
    assert [line.get_label() for line in figure.axes[2].lines] == ["AP"], "no objects of that size: no line at -1"


def test_a_resumed_run_begins_where_its_table_does(tmp_path: Path) -> None:
    _tables(tmp_path, 10, 2)
    losses, scores = ScalarTable(tmp_path / "l.csv", before=120), ScalarTable(tmp_path / "s.csv", before=120)
    losses.add(120, {"lr": 0.01, "loss": 0.5})
    total = curves_figure(losses, scores).axes[0].lines[0]
    assert list(total.get_xdata()[-2:]) == [100.0, 120.0] and total.get_ydata()[-1] == 0.5
