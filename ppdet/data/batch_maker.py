"""From the numbers of images to the arrays of a batch: what a worker process does, and needs no Paddle for."""

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
"""Key of a batch that is a failure instead: (whether it is a user's mistake, the message)."""

REPLACED = "replaced"
"""Key of a batch in which images take the places of broken ones: what is wrong with those."""

SKIPPED = "skipped"
"""Key of a batch that broken images were left out of: index and complaint of each; there may be nothing else in it."""

_ATTEMPTS = 100
"""Broken images in a row after which no more is tried."""


class BatchMaker:
    """Makes batches; the random draws of a sample depend on seed, epoch and index, not on the process.

    Args:
        source: data set that the samples come from.
        transforms: transforms of a sample, in order.
        padding: how a batch is padded.
        training: batches carry the ground truth.

    Attributes:
        seed: what all random draws derive from.
        replace: other images take the places of broken ones.
        skip: broken images are left out.
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
        """Return the batch of the images ``keys``, or a failure in its place; no exception leaves this method.

        Args:
            keys: (epoch, index) of each image.
            note: told which image is under way.
        """
        try:
            samples, skipped = self._samples(keys, note)
            batch = collate(samples, self.padding, self.training) if samples else {}
            told = {REPLACED: [reason for sample in samples for reason in sample.replaces], SKIPPED: skipped}
            return {**batch, **{key: reasons for key, reasons in told.items() if reasons}}
        except Exception as error:  # not lost: the main process raises it, see raise_failure
            return failure(error)

    def _samples(
        self, keys: Sequence[tuple[int, int]], note: Callable[[str], None]
    ) -> tuple[list[Sample], list[tuple[int, str]]]:
        """Return the samples of a batch, and index and complaint of those that were left out."""
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
        """Return a sample, or one that takes its place."""
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
        note(f"image number {index} of the data set")
        sample: Sample = self.source[index]
        note(sample.image_path)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


def failure(error: Exception) -> dict[str, Any]:
    """Return an exception as a batch."""
    if isinstance(error, UserError):
        return {FAILURE: (True, str(error))}
    if isinstance(error, MemoryError):
        return {FAILURE: (True, "not enough memory to load an image: lower worker_num or batch_size")}
    text = "".join(traceback.format_exception(None, error, error.__traceback__))
    return {FAILURE: (False, f"loading a sample failed:\n{text}")}


def raise_failure(batch: dict[str, Any]) -> None:
    """Raise what a batch carries in place of arrays, if it does.

    Raises:
        UserError: an image that cannot be used, or too little memory.
        RuntimeError: a defect in a transform or a data set, with the traceback of where it happened.
    """
    if FAILURE in batch:
        mistake, message = batch[FAILURE]
        raise (UserError if mistake else RuntimeError)(message)
