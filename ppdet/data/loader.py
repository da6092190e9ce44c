"""Batches from worker processes: errors arrive as errors, and no death of a worker goes unnoticed.

Workers are paddle.io's. Left to itself it ends an epoch early, or raises "blocking queue is killed", whatever went
wrong in a worker; so here a failure travels as a batch of its own, and the main process raises it.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from ppdet.data.collate import PadBatch, collate
from ppdet.data.sampler import EvalBatchSampler, GroupedBatchSampler
from ppdet.data.workers import obituary, prepare_worker, shared_memory_is_small, start_workers
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["Loader"]

logger = setup_logger(__name__)

_USER_ERROR, _DEFECT = "user_error", "defect"
"""Keys of a batch that is a failure instead: its message as UTF-8 bytes."""

_REPLACED = "replaced"
"""Key of a batch in which images take the places of broken ones: what is wrong with those."""

_ATTEMPTS = 100
"""Broken images in a row after which no more is tried."""


class _Transformed(Dataset):
    """Samples after the transforms; a sample's random draws depend on seed, epoch and index, not on the worker."""

    def __init__(self, source: Any, transforms: Sequence[Any]) -> None:
        super().__init__()
        self.source = source
        self.transforms = transforms
        self.seed = 0
        self.replace = False

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample | dict[str, Any]:
        epoch, index = key
        replaces: list[str] = []
        try:
            rng = np.random.default_rng([self.seed, epoch, index])
            while True:
                try:
                    sample = self._sample(index, rng)
                    break
                except UserError as error:
                    if not self.replace or len(replaces) == _ATTEMPTS:
                        raise
                    replaces.append(str(error))
                    index = int(rng.integers(len(self)))
        except Exception as error:  # not lost: the main process raises it, see Loader
            return _failure(error)
        sample.replaces = replaces
        return sample

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample: Sample = self.source[index]
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class _Collate:
    """What a worker does with its samples: a batch, or the first failure among them."""

    def __init__(self, padding: PadBatch, training: bool) -> None:
        self.padding = padding
        self.training = training

    def __call__(self, samples: Sequence[Sample | dict[str, Any]]) -> dict[str, Any]:
        good = [sample for sample in samples if isinstance(sample, Sample)]
        try:
            failed = [sample for sample in samples if not isinstance(sample, Sample)]
            if failed:
                return failed[0]
            batch = collate(good, self.padding, self.training)
            replaced = [reason for sample in good for reason in sample.replaces]
            return {**batch, _REPLACED: replaced} if replaced else batch
        except Exception as error:  # not lost: the main process raises it, see Loader
            return _failure(error)


class Loader:
    """Batches of one process.

    Args:
        dataset: source of the samples.
        sampler: which of them form which batch.
        transforms: transforms of a sample, in order.
        padding: how a batch is padded.
        training: batches carry the ground truth.
        workers: worker processes; 0 loads in this process.
        use_shared_memory: workers hand batches over in /dev/shm, else through pipes.

    Attributes:
        dataset: source of the samples.
        batch_size: images per batch.
        broken: what is wrong with the images that others have taken the places of, in the order of their appearance.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: GroupedBatchSampler | EvalBatchSampler,
        transforms: Sequence[Any],
        padding: PadBatch,
        training: bool,
        workers: int,
        use_shared_memory: bool,
    ) -> None:
        if workers < 0:
            raise UserError(f"worker_num is {workers}, expected 0 or more")
        self.dataset = dataset
        self.batch_size = sampler.batch_size
        self._sampler = sampler
        self._samples = _Transformed(dataset, transforms)
        self._collate = _Collate(padding, training)
        self._workers = workers
        self._max_broken = 0.0
        self.broken: dict[str, None] = {}
        self._shared = use_shared_memory and not (workers and shared_memory_is_small())

    def allow_broken(self, share: float) -> None:
        """Let other images take the places of broken ones, up to a share (0..1) of the data set.

        Which ones depends on seed, epoch and the broken image alone.
        """
        if not 0.0 <= share < 1.0:
            raise UserError(f"max_broken_share is {share}, expected 0 or more and less than 1")
        self._max_broken, self._samples.replace = share, share > 0

    def set_seed(self, seed: int) -> None:
        """Choose what all random draws derive from."""
        self._sampler.seed = self._samples.seed = seed

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """Choose the epoch, and the batch of it to begin with."""
        self._sampler.epoch, self._sampler.start = epoch, start_iter

    def set_share(self, rank: int, processes: int, batch_size: int) -> None:
        """Take the share of another process, to look at what it saw."""
        self._sampler.rank, self._sampler.world_size = rank, processes
        self._sampler.batch_size = self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches as dictionaries of tensors (``im_path``: list of str).

        Raises:
            UserError: an image that cannot be used, or a worker process that died.
            RuntimeError: a defect in a transform or a data set, with the worker's traceback.
        """
        for batch in self._from_workers() if self._workers else self._in_process():
            for key, kind in ((_USER_ERROR, UserError), (_DEFECT, RuntimeError)):
                if key in batch:
                    raise kind(bytes(batch[key].numpy()).decode("utf-8", "replace"))
            self._count_broken(batch.pop(_REPLACED, []))
            yield batch

    def _count_broken(self, reasons: Sequence[str]) -> None:
        """Log each broken image once.

        Raises:
            UserError: there are more than allowed.
        """
        for reason in reasons:
            if reason not in self.broken:
                self.broken[reason] = None
                # An error, because other processes than the first show nothing less.
                logger.error("another image takes the place of a broken one: %s", reason)
        if len(self.broken) > self._max_broken * len(self.dataset):
            raise UserError(
                f"{len(self.broken)} of {len(self.dataset)} training images are broken, more than max_broken_share "
                f"{self._max_broken:g} allows: {'; '.join(self.broken)}"
            )

    def _in_process(self) -> Iterator[dict[str, Any]]:
        for keys in self._sampler:
            batch = self._collate([self._samples[key] for key in keys])
            yield {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}

    def _from_workers(self) -> Iterator[dict[str, Any]]:
        expected = len(list(iter(self._sampler)))
        if not expected:
            return
        loader = DataLoader(
            self._samples,
            batch_sampler=self._sampler,
            collate_fn=self._collate,
            num_workers=self._workers,
            use_shared_memory=self._shared,
            worker_init_fn=prepare_worker,
            return_list=True,
            places=None if paddle.is_compiled_with_cuda() else paddle.CPUPlace(),
        )
        try:
            multiprocessing.Lock()  # asked for here: paddle.io's half-built loader would print a traceback
            batches = start_workers(loader)
        except OSError as error:
            raise UserError(
                f"cannot start {self._workers} data loading processes ({error.strerror or error}): make /dev/shm "
                "writable and larger (docker run --shm-size=8g), or load in the main process with worker_num=0"
            ) from error
        try:
            for _ in range(expected):
                try:
                    batch = next(batches)
                except (StopIteration, RuntimeError, SystemError, OSError) as error:
                    raise UserError(obituary(getattr(batches, "_workers", []))) from error
                yield batch
        finally:
            # Dropping the iterator would not do: its reader thread keeps it, and so the workers, alive for good.
            batches._try_shutdown_all()


def _failure(error: Exception) -> dict[str, Any]:
    """An exception as a batch: an array, because paddle.io takes a batch without arrays for the end of the epoch."""
    if isinstance(error, UserError):
        key, message = _USER_ERROR, str(error)
    elif isinstance(error, MemoryError):
        key, message = _USER_ERROR, "not enough memory to load an image: lower worker_num or batch_size"
    else:
        key, message = (
            _DEFECT,
            f"loading a sample failed:\n{''.join(traceback.format_exception(None, error, error.__traceback__))}",
        )
    return {key: np.frombuffer(message.encode("utf-8"), np.uint8).copy()}
