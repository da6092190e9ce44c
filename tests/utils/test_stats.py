"""Smoothing, reminders, CSV tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppdet.utils.stats import Reminder, ScalarTable, SmoothedValue, format_duration

pytestmark = pytest.mark.same_on_every_paddle


def test_smoothed_value() -> None:
    value = SmoothedValue(window=2)
    assert value.recent == value.mean == 0.0
    for number in (1.0, 2.0, 6.0):
        value.update(number)
    assert value.recent == 4.0 and value.mean == 3.0
    assert format_duration(3661.9) == "1:01:01" and format_duration(-1) == "0:00:00"
    assert format_duration(100 * 3600 + 59) == "100:00:59"


def test_a_reminder_is_due_at_first_and_after_silence() -> None:
    patient, eager = Reminder(1000.0), Reminder(0.0)
    assert patient.due() and eager.due()
    patient.reset()
    eager.reset()
    assert not patient.due() and eager.due()


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
