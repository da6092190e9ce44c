"""Learning rates of single iterations, against the reference recording and values worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ppdet.optimizer import CosineDecay, ExpWarmup, LearningRate, LinearWarmup, PiecewiseDecay
from ppdet.utils.errors import UserError


def rates(scheduler, count: int) -> np.ndarray:
    values = []
    for _ in range(count):
        values.append(scheduler())
        scheduler.step()
    return np.array(values)


def test_warmup_equals_the_recording_of_the_authors_code(oracle: Path) -> None:
    golden = np.load(oracle / "golden" / "units.npz")["warmup/lr"]
    scheduler = LearningRate(0.02, [PiecewiseDecay(), LinearWarmup(steps=500, start_factor=0.001)])(7330)
    np.testing.assert_allclose(rates(scheduler, len(golden)), golden, rtol=1e-12)


def test_steps_lie_at_the_first_iteration_of_the_milestones() -> None:
    scheduler = LearningRate(0.02, [PiecewiseDecay(0.1, [2, 3])])(10)
    lr = rates(scheduler, 40)
    np.testing.assert_allclose(lr[[0, 19, 20, 29, 30, 39]], [0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])


def test_gamma_list_and_values_are_taken_of_the_base_rate() -> None:
    listed = rates(LearningRate(1.0, [PiecewiseDecay([0.5, 0.2], [1, 2])])(1), 3)
    np.testing.assert_allclose(listed, [1.0, 0.5, 0.2])
    absolute = rates(LearningRate(1.0, [PiecewiseDecay(milestones=[1, 2], values=[0.3, 0.02, 0.001])])(1), 3)
    np.testing.assert_allclose(absolute, [0.3, 0.02, 0.001])


def test_warmup_beyond_a_milestone_is_multiplied_with_the_decay() -> None:
    lr = rates(LearningRate(1.0, [PiecewiseDecay(0.1, [1]), LinearWarmup(steps=5, start_factor=0.0)])(2), 6)
    np.testing.assert_allclose(lr, [0.0, 0.25, 0.05, 0.075, 0.1, 0.1])


@pytest.mark.parametrize("steps", [0, 1])
def test_a_warmup_of_no_length_leaves_the_base_rate(steps: int) -> None:
    np.testing.assert_allclose(rates(LearningRate(0.5, [LinearWarmup(steps=steps)])(3), 3), 0.5)


def test_warmup_length_in_epochs() -> None:
    lr = rates(LearningRate(1.0, [LinearWarmup(start_factor=0.2, epochs=0.5)])(10), 6)
    np.testing.assert_allclose(lr, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_exponential_warmup() -> None:
    lr = rates(LearningRate(1.0, [ExpWarmup(steps=4, start_factor=0.2)])(10), 5)
    np.testing.assert_allclose(lr, [0.2, 0.25, 0.4, 0.65, 1.0])


def test_cosine_starts_after_the_warmup_and_ends_on_its_plateau() -> None:
    cosine = CosineDecay(max_epochs=4, min_lr_ratio=0.1, last_plateau_epochs=1)
    lr = rates(LearningRate(1.0, [cosine, LinearWarmup(steps=2, start_factor=0.5)])(4), 16)
    # cosine over iterations 2..12
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (t - 2) / 10)) for t in (2, 7, 11)]
    np.testing.assert_allclose(lr[[0, 1, 2, 7, 11]], [0.5, 1.0, *expected])
    np.testing.assert_allclose(lr[12:], 0.1)


def test_resumed_schedule_continues_exactly() -> None:
    builder = LearningRate(0.02, [PiecewiseDecay(0.1, [2]), LinearWarmup(steps=7)])
    whole = builder(5)
    expected = rates(whole, 20)
    first, second = builder(5), builder(5)
    rates(first, 9)
    second.set_state_dict(first.state_dict())
    np.testing.assert_array_equal(rates(second, 11), expected[9:])


def test_state_without_iteration_is_refused() -> None:
    with pytest.raises(UserError, match="iteration"):
        LearningRate(0.02, [])(5).set_state_dict({"last_lr": 0.1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearningRate(0.0, []), r"'LearningRate\.base_lr' takes a number above 0, got 0\.0"),
        (lambda: LearningRate(0.1, [LinearWarmup(), ExpWarmup()]), "at most one"),
        (lambda: LearningRate(0.1, ["cosine"]), "schedulers' takes"),
        (lambda: PiecewiseDecay(0.1, [8, 8]), "ascend"),
        (lambda: PiecewiseDecay([0.1], [8, 11]), "1 values, but .*milestones' has 2"),
        (lambda: PiecewiseDecay(milestones=[8], values=[0.1]), "1 entries.*one more"),
        (lambda: CosineDecay(max_epochs=0), "max_epochs"),
        (lambda: LinearWarmup(start_factor=2.0), "start_factor' takes a number between 0 and 1"),
        (lambda: LinearWarmup(steps=-1), r"steps' takes an integer between 0 and"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
