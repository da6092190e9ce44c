"""Smoothing, CSV tables, the picture of the curves."""

from __future__ import annotations

from pathlib import Path

import cv2

from ppdet.utils.stats import ScalarTable, SmoothedValue, draw_curves, format_duration


def test_smoothed_value() -> None:
    value = SmoothedValue(window=2)
    assert value.recent == value.mean == 0.0
    for number in (1.0, 2.0, 6.0):
        value.update(number)
    assert value.recent == 4.0 and value.mean == 3.0
    assert format_duration(3661.9) == "1:01:01" and format_duration(-1) == "0:00:00"


def test_table_grows_and_is_cut_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = ScalarTable(path)
    table.add(1, {"loss": 0.5})
    table.add(2, {"loss": 0.25, "extra": 1e-7})
    table.add(3, {"extra": 2})
    assert path.read_text() == "step,loss,extra\n1,0.5,\n2,0.25,1e-07\n3,,2\n"
    assert table.column("loss") == ([1, 2], [0.5, 0.25])
    with open(path, "a") as stream:
        stream.write("4,0.1")  # killed in the middle of a line
    again = ScalarTable(path, before=3)
    assert path.read_text() == "step,loss,extra\n1,0.5,\n2,0.25,1e-07\n"
    again.add(3, {"loss": 7})
    assert path.read_text().endswith("3,7,\n")
    assert ScalarTable(path).rows == [] and path.read_text() == "step\n"


def test_picture_shows_the_curves(tmp_path: Path) -> None:
    losses, scores = ScalarTable(tmp_path / "l.csv"), ScalarTable(tmp_path / "s.csv")
    draw_curves(tmp_path / "empty.png", losses, scores)
    for step in range(1, 20):
        losses.add(step, {"loss": 10.0 / step, "loss_rpn_cls": 1.0 / step, "lr": 0.02})
    scores.add(10, {"bbox_AP": 0.3, "mask_AP": float("nan")})
    draw_curves(tmp_path / "c.png", losses, scores)
    empty, drawn = cv2.imread(str(tmp_path / "empty.png")), cv2.imread(str(tmp_path / "c.png"))
    assert empty.shape == drawn.shape and drawn.shape[0] > 300
    assert (drawn != empty).any(axis=2).mean() > 0.005
