"""Gradients of two processes with half a batch each, against those of one process with all of it.

The processes exchange gradients with `find_unused_parameters` off, as in training: a parameter that a process without
objects left out would stop them all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Workplace, launch
from tests.end_to_end.launched_losses import gradients, take
from tests.end_to_end.test_switches import batch

FIXED_DRAWS = """
_BASE_: [{config}]
ResNet: {{norm_eval: true}}
BBoxAssigner: {{use_random: false}}
RPNHead: {{rpn_target_assign: {{use_random: false}}}}
"""


@pytest.fixture(scope="module")
def config(workplace: Workplace) -> Path:
    """The small model with samplers that take the first candidates, so that draws do not depend on the process."""
    path = workplace.folder / "fixed_draws.yml"
    path.write_text(FIXED_DRAWS.format(config=workplace.config))
    return path


def two_processes(config: Path, global_counts: bool, objects: list[int], folder: Path) -> dict[str, np.ndarray]:
    output = folder / "gradients.npz"
    launch(2, folder, "launched_losses.py", str(config), str(output), str(int(global_counts)), *map(str, objects))
    return dict(np.load(output))


def difference(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each parameter's gradient, over its largest value."""
    return {
        name: float(np.abs(found[name] - value).max() / max(np.abs(value).max(), 1e-6))
        for name, value in wanted.items()
    }


@pytest.mark.parametrize("objects", [[5, 3, 0, 1], [5, 3, 0, 0]], ids=["few on one", "none on one"])
def test_gradients_are_those_of_one_process(config: Path, tmp_path: Path, objects: list[int]) -> None:
    wanted, losses = gradients(str(config), batch(objects))
    found = two_processes(config, True, objects, tmp_path)
    assert max(difference(found, wanted).values()) < 1e-4
    for name, value in losses.items():
        assert found[f"mean {name}"] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_default_is_the_mean_of_what_each_process_has_alone(config: Path, tmp_path: Path) -> None:
    """As the authors train: objects of the process that has fewer weigh more."""
    objects = [5, 3, 0, 1]
    found = two_processes(config, False, objects, tmp_path)
    halves = [gradients(str(config), take(batch(objects), first, 2))[0] for first in (0, 2)]
    mean = {name: (value + halves[1][name]) / 2 for name, value in halves[0].items()}
    assert max(difference(found, mean).values()) < 1e-4
    by_name = difference(found, gradients(str(config), batch(objects))[0])
    assert by_name["mask_head.head.2.conv_logits.weight"] > 0.5  # 8 objects against 1
    assert by_name["bbox_head.bbox_score_stage0.weight"] < 1e-4  # as many RoIs drawn on both
