"""Composition and timing of batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from deploy.serving.batcher import Batcher

PATIENCE = 20.0
FOREVER = 1000.0


class Numbers:
    """Predictor that returns the first pixel of an image; while it is paused, it waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.poison = -1

    def __call__(self, images: Sequence[np.ndarray], values: Sequence[Any]) -> list[int]:
        numbers = [int(image[0, 0, 0]) for image in images]
        self.batches.append(numbers)
        self.began.release()
        assert self.go.wait(PATIENCE)
        if self.poison in numbers:
            raise ValueError(f"poisoned by {self.poison}")
        return numbers


def image(number: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), number, np.uint8)


@pytest.fixture
def predict() -> Numbers:
    return Numbers()


@pytest.fixture
def batcher_of(predict: Numbers) -> Iterator[Callable[[int, float], Batcher]]:
    made: list[Batcher] = []

    def make(max_batch: int, max_delay: float) -> Batcher:
        made.append(Batcher(predict, lambda height, width: (height, width), max_batch, max_delay))
        return made[-1]

    yield make
    predict.go.set()
    for batcher in made:
        batcher.close()


Make = Callable[[int, float], Batcher]


def test_what_waits_is_computed_together_in_its_order(predict: Numbers, batcher_of: Make) -> None:
    predict.go.clear()
    batcher = batcher_of(4, 0.0)
    jobs = [batcher.submit(image(0))]
    assert predict.began.acquire(timeout=PATIENCE)
    jobs += [batcher.submit(image(number)) for number in range(1, 7)]
    assert batcher.waiting == 6
    predict.go.set()
    outcomes = [job.future.result(PATIENCE) for job in jobs]
    assert [outcome.detections for outcome in outcomes] == list(range(7))
    assert [outcome.batch for outcome in outcomes] == [1, 4, 4, 4, 4, 2, 2]
    assert predict.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert batcher.waiting == 0


def test_an_image_waits_for_a_full_batch(predict: Numbers, batcher_of: Make) -> None:
    batcher = batcher_of(2, FOREVER)
    first = batcher.submit(image(1))
    second = batcher.submit(image(2))
    assert (first.future.result(PATIENCE).detections, second.future.result(PATIENCE).detections) == (1, 2)
    assert predict.batches == [[1, 2]]


def test_an_image_does_not_wait_longer_than_the_delay(predict: Numbers, batcher_of: Make) -> None:
    outcome = batcher_of(2, 0.05).submit(image(1)).future.result(PATIENCE)
    assert outcome.batch == 1
    assert 0.05 <= outcome.waited < PATIENCE


def test_only_inputs_of_one_size_are_computed_together(predict: Numbers, batcher_of: Make) -> None:
    """Images are not padded to a common size, so the result does not depend on other requests."""
    predict.go.clear()
    batcher = batcher_of(2, 0.0)
    jobs = [batcher.submit(image(0))]
    assert predict.began.acquire(timeout=PATIENCE)
    shapes = {1: (40, 60), 2: (60, 40), 3: (40, 60), 4: (40, 61), 5: (40, 60), 6: (60, 40)}
    jobs += [batcher.submit(image(number, *shape)) for number, shape in shapes.items()]
    predict.go.set()
    assert [job.future.result(PATIENCE).detections for job in jobs] == [0, 1, 2, 3, 4, 5, 6]
    assert predict.batches == [[0], [1, 3], [2, 6], [4], [5]]


def test_a_discarded_image_is_not_computed(predict: Numbers, batcher_of: Make) -> None:
    predict.go.clear()
    batcher = batcher_of(1, 0.0)
    running, unwanted, last = (batcher.submit(image(number)) for number in (1, 2, 3))
    assert predict.began.acquire(timeout=PATIENCE)
    batcher.discard(unwanted)
    assert unwanted.future.cancelled()
    assert batcher.waiting == 1
    batcher.discard(running)  # too late, its batch is completed without affecting others
    predict.go.set()
    assert last.future.result(PATIENCE).detections == 3
    assert predict.batches == [[1], [3]]


def test_a_batch_that_was_cancelled_whole_is_skipped(predict: Numbers, batcher_of: Make) -> None:
    predict.go.clear()
    batcher = batcher_of(1, 0.0)
    batcher.submit(image(1))
    assert predict.began.acquire(timeout=PATIENCE)
    cancelled, last = batcher.submit(image(2)), batcher.submit(image(3))
    assert cancelled.future.cancel()  # without informing the batcher
    predict.go.set()
    assert last.future.result(PATIENCE).detections == 3
    assert predict.batches == [[1], [3]]


def test_only_the_culprit_of_a_failed_batch_fails(
    predict: Numbers, batcher_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    predict.poison = 2
    batcher = batcher_of(3, FOREVER)
    jobs = [batcher.submit(image(number)) for number in (1, 2, 3)]
    assert jobs[0].future.result(PATIENCE).detections == 1
    with pytest.raises(ValueError, match="poisoned by 2"):
        jobs[1].future.result(PATIENCE)
    assert jobs[2].future.result(PATIENCE).detections == 3
    assert predict.batches == [[1, 2, 3], [1], [2], [3]]
    assert caplog.text.count("poisoned by 2") == 2  # with its traceback, for the batch and for the single image


def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher = Batcher(lambda images, values: [], lambda height, width: (height, width), 1, 0.0)
    with pytest.raises(RuntimeError, match="0 results for 1 images"):
        batcher.submit(image(1)).future.result(PATIENCE)
    batcher.close()


def test_closing_computes_what_waits_without_delay(predict: Numbers, batcher_of: Make) -> None:
    batcher = batcher_of(8, FOREVER)
    jobs = [batcher.submit(image(number)) for number in (1, 2)]
    batcher.close()
    assert [job.future.result(0).detections for job in jobs] == [1, 2]
    assert predict.batches == [[1, 2]]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(image(3))


def test_observer_and_estimate(predict: Numbers) -> None:
    seen: list[tuple[int, float]] = []
    done = threading.Event()

    def observe(size: int, seconds: float) -> None:
        seen.append((size, seconds))
        done.set()

    batcher = Batcher(predict, lambda height, width: (height, width), 2, FOREVER, observe)
    assert batcher.seconds_left(5) == 0
    for number in (1, 2):
        batcher.submit(image(number))
    assert done.wait(PATIENCE)
    batcher.close()
    assert [size for size, _ in seen] == [2]
    assert batcher.seconds_left(6) == pytest.approx(3 * seen[0][1])
