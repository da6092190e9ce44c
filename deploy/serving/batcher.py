"""Dynamic batching: requests that wait at the same time are computed together, by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Batcher", "Job", "Outcome"]

logger = logging.getLogger(__name__)

Size = tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        found: its detections, as the predictor gave them.
        batch: images computed with it, itself included.
        waited: seconds from its arrival to the begin of its batch.
        computed: seconds that the batch took.
    """

    found: Any
    batch: int
    waited: float
    computed: float


@dataclass(eq=False)
class Job:
    """An image that waits or is computed; its ``future`` gets an `Outcome` or the exception that the predictor raised.

    Attributes:
        image: uint8 [h, w, 3] RGB.
        size: (h, w) of the network's input for this image alone.
        arrived: monotonic seconds.
        values: extra inputs of the image, by name.
        future: the result.
    """

    image: np.ndarray
    size: Size
    arrived: float
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    future: Future[Outcome] = field(default_factory=Future)


class Batcher:
    """One thread that calls a predictor on the images waiting for it.

    A batch begins with the image that has waited longest; others join whose network input has the same size. Padding to
    a common size would change scores: an answer would depend on who else asks. A batch is computed once it is full or
    its first image has waited ``max_delay``.
    If a batch of several images fails, each of them is computed alone, so that only the culprit fails.

    Args:
        predict: images uint8 [h, w, 3] RGB -> one result each; called by one thread at a time.
        input_size: (h, w) of an image -> (h, w) of the network's input for it.
        max_batch: most images computed together.
        max_delay: seconds that an image waits for company.
        observe: is told the size of each batch and the seconds that it took.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[np.ndarray], Sequence[Mapping[str, np.ndarray]]], Sequence[Any]],
        input_size: Callable[[int, int], Size],
        max_batch: int,
        max_delay: float,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._predict = predict
        self._input_size = input_size
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._observe = observe
        self._queue: list[Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._seconds_per_image = 0.0
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that no batch has taken yet."""
        with self._wake:
            return len(self._queue)

    def seconds_left(self, images: int) -> float:
        """Estimate how long that many images take, from the last batch."""
        return images * self._seconds_per_image

    def submit(self, image: np.ndarray, values: Mapping[str, np.ndarray] | None = None) -> Job:
        """Queue an image, uint8 [h, w, 3] RGB.

        Raises:
            RuntimeError: after `close`.
        """
        size = self._input_size(image.shape[0], image.shape[1])
        job = Job(image, size, time.monotonic(), values or {})
        with self._wake:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            self._queue.append(job)
            self._wake.notify()
        return job

    def discard(self, job: Job) -> None:
        """Forget an image that nobody wants any longer; it is not computed unless its batch runs already."""
        with self._wake:
            if job in self._queue:
                self._queue.remove(job)
        job.future.cancel()

    def close(self, timeout: float | None = None) -> None:
        """Compute what waits, without delay, and end the thread; give up after ``timeout`` seconds."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("inference does not end: left behind after %g seconds", timeout)

    def _work(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Compute one batch; False at the end. A function of its own: no image outlives its batch."""
        batch = self._take()
        if batch:
            self._compute(batch)
        return bool(batch)

    def _take(self) -> list[Job]:
        """Wait for a batch and take it off the queue; empty when the batcher is closed and nothing is left."""
        with self._wake:
            while True:
                batch = self._next_batch()
                if not batch:
                    if self._closing:
                        return []
                    self._wake.wait()
                    continue
                left = batch[0].arrived + self._max_delay - time.monotonic()
                if self._closing or len(batch) == self._max_batch or left <= 0:
                    self._queue = [job for job in self._queue if job not in batch]
                    wanted = [job for job in batch if job.future.set_running_or_notify_cancel()]
                    if wanted:
                        return wanted
                    continue
                self._wake.wait(left)

    def _next_batch(self) -> list[Job]:
        first = self._queue[:1]
        return [job for job in self._queue if job.size == first[0].size][: self._max_batch] if first else []

    def _compute(self, batch: list[Job]) -> None:
        begin = time.monotonic()
        found: Sequence[Any] = ()
        failure: Exception | None = None
        try:
            found = self._predict([job.image for job in batch], [job.values for job in batch])
            if len(found) != len(batch):
                raise RuntimeError(f"the predictor gave {len(found)} results for {len(batch)} images")
        except Exception as error:
            # Whatever it was, it concerns this batch alone: the service lives on.
            shapes = [job.image.shape[:2] for job in batch]
            logger.exception("inference failed on %d image(s), (h, w): %s", len(batch), shapes)
            failure = error
        if failure is not None and len(batch) == 1:
            batch[0].future.set_exception(failure)
        elif failure is not None:
            for job in batch:
                self._compute([job])
        if failure is not None:
            return
        seconds = time.monotonic() - begin
        self._seconds_per_image = seconds / len(batch)
        self._observe(len(batch), seconds)
        for job, detections in zip(batch, found):
            job.future.set_result(Outcome(detections, len(batch), begin - job.arrived, seconds))
