"""Dynamic batching: a single thread processes waiting requests together."""

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
    """The result of an image.

    Attributes:
        detections: detections returned by the predictor.
        batch: size of the batch.
        waited: seconds between the arrival of the image and the start of its batch.
        computed: seconds for processing the batch.
    """

    detections: Any
    batch: int
    waited: float
    computed: float


@dataclass(eq=False)
class Job:
    """An image that is waiting or being processed.

    Attributes:
        image: uint8 [h, w, 3] RGB.
        size: (h, w) of the network input for this image.
        arrived: time of arrival in monotonic seconds.
        values: extra inputs of the image by name.
        future: receives an `Outcome` or the exception raised by the predictor.
    """

    image: np.ndarray
    size: Size
    arrived: float
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    future: Future[Outcome] = field(default_factory=Future)


class Batcher:
    """Runs a predictor on waiting images in a single thread.

    A batch starts with the image that has waited longest and is filled with images that have the same network input
    size. Padding to a common size would change the scores, so that a result would depend on the requests of other
    clients. A batch is processed as soon as it is full or its first image has waited for ``max_delay``. If a batch of
    several images fails, its images are processed again one by one, so that only the image that causes the failure is
    affected.

    Args:
        predict: function from images, uint8 [h, w, 3] RGB, to one result each; called by one thread at a time.
        input_size: function from (h, w) of an image to (h, w) of the network input.
        max_batch: maximum batch size.
        max_delay: maximum number of seconds that an image waits for others.
        observe: called with the size and the duration in seconds of each batch.
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
        """Number of images that are not part of a batch yet."""
        with self._wake:
            return len(self._queue)

    def seconds_left(self, images: int) -> float:
        """Estimate the processing time of a number of images from the last batch."""
        return images * self._seconds_per_image

    def submit(self, image: np.ndarray, values: Mapping[str, np.ndarray] | None = None) -> Job:
        """Add an image, uint8 [h, w, 3] RGB, to the queue.

        Raises:
            RuntimeError: the batcher has been closed.
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
        """Remove an image whose result is no longer needed; a batch that has already started is not affected."""
        with self._wake:
            if job in self._queue:
                self._queue.remove(job)
        job.future.cancel()

    def close(self, timeout: float | None = None) -> None:
        """Process all waiting images without delay and end the thread; give up after ``timeout`` seconds."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the inference thread has not ended within %g seconds and is abandoned", timeout)

    def _work(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Process one batch; return False at the end. A separate function, so that the images are released after it."""
        batch = self._take()
        if batch:
            self._compute(batch)
        return bool(batch)

    def _take(self) -> list[Job]:
        """Wait for a batch and remove it from the queue; empty if the batcher is closed and the queue is empty."""
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
                    active = [job for job in batch if job.future.set_running_or_notify_cancel()]
                    if active:
                        return active
                    continue
                self._wake.wait(left)

    def _next_batch(self) -> list[Job]:
        first = self._queue[:1]
        return [job for job in self._queue if job.size == first[0].size][: self._max_batch] if first else []

    def _compute(self, batch: list[Job]) -> None:
        start = time.monotonic()
        results: Sequence[Any] = ()
        failure: Exception | None = None
        try:
            results = self._predict([job.image for job in batch], [job.values for job in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"the predictor returned {len(results)} results for {len(batch)} images")
        except Exception as error:
            # Any exception only affects this batch; the service continues.
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
        seconds = time.monotonic() - start
        self._seconds_per_image = seconds / len(batch)
        self._observe(len(batch), seconds)
        for job, detections in zip(batch, results):
            job.future.set_result(Outcome(detections, len(batch), start - job.arrived, seconds))
