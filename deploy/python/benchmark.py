"""Measurement of prediction time and memory usage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.common.errors import UserError
from deploy.python.images import ImageBatch, read_batches
from deploy.python.predictor import Predictor

__all__ = ["PARTS", "Timing", "measure", "peak_memory"]

PARTS = ("reading", "pre-process", "inference", "post-process")

_WARM_UP = 5
"""Number of batches before the measurement, in which memory is allocated and kernels are prepared."""
_MIN_BATCHES = 10
"""Minimum number of measured batches; the images are repeated if there are fewer."""


@dataclass
class Timing:
    """Measured times.

    Attributes:
        seconds: time of each part for each batch.
        counts: number of images in each batch.
        complaints: error message of each file that could not be read.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    counts: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def milliseconds(self, part: str) -> np.ndarray:
        """Return the milliseconds per image for each batch."""
        return 1000 * np.array(self.seconds[part]) / np.array(self.counts)

    @property
    def rate(self) -> float:
        """Images per second, without the time for reading files."""
        return sum(self.counts) / sum(sum(self.seconds[part]) for part in PARTS[1:])

    def lines(self) -> list[str]:
        """Return the report, line by line."""
        batches = len(self.counts)
        lines = [f"{sum(self.counts)} images in {batches} batches, after {_WARM_UP} warm-up batches; ms per image:"]
        for part in PARTS:
            each = self.milliseconds(part)
            mean = 1000 * sum(self.seconds[part]) / sum(self.counts)
            middle, high = np.quantile(each, [0.5, 0.95])
            lines.append(f"  {part:12} mean {mean:8.2f}   median {middle:8.2f}   95th percentile {high:8.2f}")
        lines.append(f"  {self.rate:.2f} images/s without reading the files")
        memory = peak_memory()
        lines.append(f"  peak memory {'unknown on this system' if memory is None else f'{memory:.0f} MB'}")
        return lines


def measure(
    predictor: Predictor,
    paths: Sequence[str],
    batch_size: int,
    threshold: float,
    values: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> Timing:
    """Predict and measure the times. Post-processing includes pasting the masks and encoding them as run lengths.

    Args:
        predictor: the model.
        paths: image files, which are repeated if there are few.
        batch_size: number of images per batch.
        threshold: minimum score of objects that are encoded.
        values: extra inputs of each image, for a model that requires them.

    Raises:
        UserError: no image can be read.
    """
    timing = Timing()
    for _, batch in zip(range(_WARM_UP), _endless_batches(paths, batch_size)):
        _once(predictor, batch, threshold, values)
    while len(timing.counts) < _MIN_BATCHES:
        complaints: list[str] = []
        begun = time.perf_counter()
        for batch in read_batches(paths, batch_size):
            complaints += [text for _, text in batch.complaints]
            read = time.perf_counter() - begun
            if batch.images:
                for part, seconds in zip(PARTS, (read, *_once(predictor, batch, threshold, values))):
                    timing.seconds[part].append(seconds)
                timing.counts.append(len(batch.images))
            begun = time.perf_counter()
        timing.complaints = complaints
    return timing


def _once(
    predictor: Predictor, batch: ImageBatch, threshold: float, values: Sequence[Mapping[str, np.ndarray]] | None
) -> tuple[float, float, float]:
    """Return the seconds of pre-processing, inference and post-processing of a batch."""
    extra = [{} if values is None else values[place] for place in batch.places]
    seconds = np.zeros(3)
    for group in predictor.extra_inputs.groups(extra):
        images = [batch.images[index] for index in group]
        arrays = predictor.extra_inputs.stack([extra[index] for index in group])
        begun = time.perf_counter()
        inputs = predictor.preprocess(images, arrays)
        prepared = time.perf_counter()
        outputs = predictor.run(inputs)
        computed = time.perf_counter()
        for detections in predictor.postprocess(outputs, [(image.shape[0], image.shape[1]) for image in images]):
            detections.above(threshold).to_coco(0)
        seconds += prepared - begun, computed - prepared, time.perf_counter() - computed
    return seconds[0], seconds[1], seconds[2]


def _endless_batches(paths: Sequence[str], batch_size: int) -> Iterator[ImageBatch]:
    """Yield non-empty batches endlessly, starting over after the last one.

    Raises:
        UserError: no image can be read.
    """
    while True:
        complaints: list[str] = []
        any_image = False
        for batch in read_batches(paths, batch_size):
            complaints += [text for _, text in batch.complaints]
            if batch.images:
                any_image = True
                yield batch
        if not any_image:
            raise UserError(f"no image can be read: {complaints[0]}")


def peak_memory() -> float | None:
    """Return the peak memory usage of this process in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
