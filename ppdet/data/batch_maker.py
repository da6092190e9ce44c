"""From the indices of images to the arrays of a batch: the work of a worker process, without Paddle."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppdet.data.collate import PadBatch, collate
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

__all__ = ["FAILURE", "REPLACED", "SKIPPED", "BatchMaker", "failure", "raise_failure"]

FAILURE = "failure"
"""Key of a dictionary that reports a failure instead of a batch: (whether it is a user's mistake, the message)."""

REPLACED = "replaced"
"""Key of the complaints about broken images that others of the batch replace."""

SKIPPED = "skipped"
"""Key of index and complaint of each broken image that was left out; the batch may have no other entry."""

_ATTEMPTS = 100
"""Number of broken images in a row after which the search for a replacement ends."""


class BatchMaker:
    """Makes batches; the random numbers of a sample depend on seed, epoch and index, not on the process.

    Args:
        source: dataset that the samples come from.
        transforms: transforms of a sample, in order.
        padding: how a batch is padded.
        training: batches contain the ground truth.

    Attributes:
        seed: seed of all random numbers.
        replace: replace broken images by others.
        skip: leave broken images out.
    """

    def __init__(self, source: Any, transforms: Sequence[Any], padding: PadBatch, training: bool) -> None:
        self.source, self.transforms = source, list(transforms)
        self.padding, self.training = padding, training
        self.seed = 0
        self.replace = False
        self.skip = False

    def __call__(
        self, keys: Sequence[tuple[int, int]], note: Callable[[str], None] = lambda text: None
    ) -> dict[str, Any]:
        """Return the batch of the images ``keys``, or a report of the failure; this method raises no exception.

        Args:
            keys: (epoch, index) of each image.
            note: called with a description of the image that is about to be loaded.
        """
        try:
            samples, skipped = self._samples(keys, note)
            batch = collate(samples, self.padding, self.training) if samples else {}
            complaints = {REPLACED: [reason for sample in samples for reason in sample.replaces], SKIPPED: skipped}
            return {**batch, **{key: reasons for key, reasons in complaints.items() if reasons}}
        except Exception as error:  # raised again by raise_failure in the main process
            return failure(error)

    def _samples(
        self, keys: Sequence[tuple[int, int]], note: Callable[[str], None]
    ) -> tuple[list[Sample], list[tuple[int, str]]]:
        """Return the samples of a batch, and index and complaint of each image that was left out."""
        samples, skipped = [], []
        for epoch, index in keys:
            try:
                samples.append(self._replaced(epoch, index, note))
            except UserError as error:
                if not self.skip:
                    raise
                skipped.append((index, str(error)))
        return samples, skipped

    def _replaced(self, epoch: int, index: int, note: Callable[[str], None]) -> Sample:
        """Return the sample of an image or, if it is broken and may be replaced, that of a random other one."""
        rng = np.random.default_rng([self.seed, epoch, index])
        replaces: list[str] = []
        while True:
            try:
                sample = self._sample(index, rng, note)
                sample.replaces = replaces
                return sample
            except UserError as error:
                if not self.replace or len(replaces) == _ATTEMPTS:
                    raise
                replaces.append(str(error))
                index = int(rng.integers(len(self.source)))

    def _sample(self, index: int, rng: np.random.Generator, note: Callable[[str], None]) -> Sample:
        note(f"image number {index} of the dataset")
        sample: Sample = self.source[index]
        note(sample.image_path)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


def failure(error: Exception) -> dict[str, Any]:
    """Return the dictionary that reports an exception."""
    if isinstance(error, UserError):
        return {FAILURE: (True, str(error))}
    if isinstance(error, MemoryError):
        return {FAILURE: (True, "not enough memory to load an image: lower worker_num or batch_size")}
    text = "".join(traceback.format_exception(None, error, error.__traceback__))
    return {FAILURE: (False, f"loading a sample failed:\n{text}")}


def raise_failure(batch: dict[str, Any]) -> None:
    """Raise the failure that a dictionary reports; do nothing if it is a batch.

    Raises:
        UserError: an image is not usable, or memory is too small.
        RuntimeError: a defect in a transform or a dataset, with the traceback of the worker.
    """
    if FAILURE in batch:
        mistake, message = batch[FAILURE]
        raise (UserError if mistake else RuntimeError)(message)
