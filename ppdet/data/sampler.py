"""Batch samplers, which depend only on seed and epoch and agree on all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["EvalBatchSampler", "GroupedBatchSampler"]


class GroupedBatchSampler:
    """Batches of images of the same orientation, for training.

    If the images do not divide evenly, some are repeated or, with ``drop_last``, left out, so that all ranks have the
    same number of batches.

    Args:
        landscape: whether each image is wider than high.
        batch_size: images per batch and rank.
        shuffle: draw a new order in each epoch.
        drop_last: leave out incomplete batches (but a dataset smaller than a batch is used completely).
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        *,
        landscape: Sequence[bool],
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.landscape = np.asarray(landscape, bool)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank, self.world_size = rank, world_size
        self.seed, self.epoch, self.start = 0, 0, 0

    def batches(self) -> list[list[int]]:
        """Return all batches of this rank in the current epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        chunk = self.batch_size * self.world_size
        chunks: list[np.ndarray] = []
        for group in (True, False):
            members = np.flatnonzero(self.landscape == group)
            if self.shuffle:
                rng.shuffle(members)
            for begin in range(0, len(members), chunk):
                part = members[begin : begin + chunk]
                if len(part) < chunk:
                    # Like mmdetection: fill up the last chunk of a group with repeated images rather than lose it.
                    part = np.concatenate([part, np.resize(members, chunk - len(part))])
                chunks.append(part)
        if self.shuffle:
            chunks = [chunks[i] for i in rng.permutation(len(chunks))]
        if self.drop_last:
            chunks = chunks[: max(1, len(self.landscape) // chunk)]
        begin = self.rank * self.batch_size
        return [[int(i) for i in part[begin : begin + self.batch_size]] for part in chunks]

    def __len__(self) -> int:
        """Return the number of batches per epoch and rank."""
        return len(self.batches())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (epoch, image index), from batch ``start`` on."""
        for batch in self.batches()[self.start :]:
            yield [(self.epoch, index) for index in batch]


class EvalBatchSampler:
    """All images once, in order; the ranks take turns with the batches.

    An image is therefore in the same batch, with the same padding, for any number of ranks, and its predictions are
    identical bit for bit. A rank may have one batch more than another, or none.

    Args:
        length: number of images.
        batch_size: images per batch.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        firsts = range(0, length, batch_size)[rank::world_size]
        self._batches = [range(first, min(first + batch_size, length)) for first in firsts]
        self.batch_size = batch_size
        self.seed, self.epoch, self.start = 0, 0, 0

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (0, image index)."""
        for batch in self._batches:
            yield [(0, index) for index in batch]
