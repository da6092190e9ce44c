"""Average precision of an evaluation that several processes share: to the last bit that of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Workplace, launch
from tests.end_to_end.launched_eval import measure


@pytest.mark.parametrize("processes", [2, 3])
def test_same_numbers_as_one_process(workplace: Workplace, tmp_path: Path, processes: int) -> None:
    """Three images in batches of two: the last batch is small, and a third process has none."""
    alone = measure(str(workplace.config))
    assert 0.1 < alone["bbox"][0] < 0.9 and 0.05 < alone["mask"][0] < 0.9
    output = tmp_path / "numbers.json"
    launch(processes, tmp_path, "launched_eval.py", str(workplace.config), str(output))
    assert json.loads(output.read_text()) == alone
