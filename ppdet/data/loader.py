"""The batches of one process as tensors; errors and deaths of workers are raised in the main process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from ppdet.data.batch_maker import REPLACED, SKIPPED, BatchMaker, raise_failure
from ppdet.data.collate import PadBatch
from ppdet.data.pool import WorkerPool
from ppdet.data.sampler import EvalBatchSampler, GroupedBatchSampler
from ppdet.data.shared_memory import PickledOnce
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["Loader"]

Batches = Generator[dict[str, Any], None, None]

logger = setup_logger(__name__)


class Loader:
    """The batches of one process.

    Training keeps its worker processes for all epochs; those of an evaluation end with it.

    Args:
        dataset: source of the samples.
        sampler: decides which samples form a batch.
        transforms: transforms of a sample, in order.
        padding: how a batch is padded.
        training: batches contain the ground truth.
        workers: number of worker processes; 0 loads in this process.
        use_shared_memory: pass batches through shared memory if the system supports it, otherwise through pipes.
        timeout: seconds to wait for a batch of the workers; 0 waits forever.

    Attributes:
        dataset: source of the samples.
        batch_size: images per batch.
        skipped: index and complaint of each image that was left out, see `skip_broken`; readers may empty it.
        broken: complaints about broken images that others have replaced, in order of appearance; with several
            processes those of all processes up to the last `agree_on_broken`, and those of this process since.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        sampler: GroupedBatchSampler | EvalBatchSampler,
        transforms: Sequence[Any],
        padding: PadBatch,
        training: bool,
        workers: int,
        use_shared_memory: bool,
        timeout: float = 0.0,
    ) -> None:
        if workers < 0:
            raise UserError(f"worker_num is {workers}, expected 0 or more")
        self.dataset = dataset
        self.batch_size = sampler.batch_size
        self._sampler = sampler
        self._maker = BatchMaker(dataset, transforms, padding, training)
        self._workers, self._shared, self._timeout = workers, use_shared_memory, timeout
        self._max_broken = 0.0
        self.broken: dict[str, None] = {}
        self.skipped: list[tuple[int, str]] = []
        self._pool: WorkerPool | None = None

    def allow_broken(self, share: float) -> None:
        """Replace broken images by others, up to a share (0..1) of the dataset.

        The choice depends only on seed, epoch and the broken image. Several processes have to combine their counts
        from time to time, see `agree_on_broken`.
        """
        if not 0.0 <= share < 1.0:
            raise UserError(f"max_broken_share is {share}, expected 0 or more and less than 1")
        self._max_broken, self._maker.replace = share, share > 0

    def skip_broken(self) -> None:
        """Leave out broken images, and batches in which all images are broken; see ``skipped``."""
        self._maker.skip = True

    def set_seed(self, seed: int) -> None:
        """Set the seed of all random numbers."""
        self._sampler.seed = self._maker.seed = seed

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """Set the epoch and its first batch."""
        self._sampler.epoch, self._sampler.start = epoch, start_iter

    def set_share(self, rank: int, processes: int, batch_size: int) -> None:
        """Load the batches of another process, to find out which images it saw."""
        assert isinstance(self._sampler, GroupedBatchSampler)  # an evaluation distributes whole batches
        self._sampler.rank, self._sampler.world_size = rank, processes
        self._sampler.batch_size = self.batch_size = batch_size

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return len(self._sampler)

    def __iter__(self) -> Batches:
        """Yield batches as dictionaries of tensors (``im_path``: list of str).

        Raises:
            UserError: an image is not usable, a worker process died, or no batch arrived in time.
            RuntimeError: a defect in a transform or a dataset, with the worker's traceback.
        """
        with closing(self._from_workers() if self._workers else _as_tensors(self._in_process())) as batches:
            for batch in batches:
                self._count_broken(batch.pop(REPLACED, []))
                self.skipped += batch.pop(SKIPPED, [])
                if batch:
                    yield batch

    def close(self) -> None:
        """End the worker processes; the next epoch starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _count_broken(self, reasons: Sequence[str]) -> None:
        """Log each broken image once.

        Raises:
            UserError: more images are broken than allowed.
        """
        for reason in reasons:
            if reason not in self.broken:
                self.broken[reason] = None
                # Logged as an error because processes other than the first show errors only.
                logger.error("a broken image is replaced by another one: %s", reason)
        self._check_share()

    def agree_on_broken(self, gather: Callable[[list[str]], list[list[str]]]) -> None:
        """Count the broken images of all processes, each image once. All processes have to call this method.

        Args:
            gather: collective that returns the arguments of all processes.

        Raises:
            UserError: more images are broken than allowed; raised on all processes.
        """
        if self._max_broken > 0:
            for reasons in gather(list(self.broken)):
                self.broken.update(dict.fromkeys(reasons))  # logged by the processes that read them
            self._check_share()

    def _check_share(self) -> None:
        if len(self.broken) > self._max_broken * len(self.dataset):
            raise UserError(
                f"{len(self.broken)} of {len(self.dataset)} training images are broken, more than max_broken_share "
                f"{self._max_broken:g} allows: {'; '.join(self.broken)}"
            )

    def _in_process(self) -> Batches:
        yield from _checked(self._maker(keys) for keys in self._sampler)

    def _from_workers(self) -> Batches:
        keys = list(self._sampler)
        if not keys:
            return
        pool, left, stop = self._taken_pool(), len(keys), threading.Event()
        try:
            with closing(_as_tensors(_checked(pool.batches(keys, self._timeout, stop)), stop)) as batches:
                for batch in batches:
                    left -= 1
                    yield batch
        finally:
            # If the epoch was not finished, the workers are still busy with batches that are no longer needed.
            if left or not self._maker.training or self._pool is not None:
                pool.close()
            else:
                self._pool = pool

    def _taken_pool(self) -> WorkerPool:
        """Return workers for one epoch: those of the last epoch, provided that dataset and transforms are unchanged."""
        parcel = _pickled(self._maker)
        pool, self._pool = self._pool, None
        if pool is not None:
            if pool.checksum == parcel.checksum:
                return pool
            pool.close()
        return WorkerPool(parcel, max(1, min(self._workers, len(self))), self._shared)


def _pickled(maker: BatchMaker) -> PickledOnce:
    """Serialise what the workers need.

    Raises:
        UserError: the dataset or a transform cannot be pickled.
    """
    try:
        return PickledOnce(maker)
    except Exception as error:  # a class of the user may raise any exception here
        culprits = [part for part in (maker.source, *maker.transforms) if not _can_be_pickled(part)]
        names = ", ".join(type(part).__name__ for part in culprits) or type(maker).__name__
        raise UserError(
            f"{names} cannot be sent to the data loading processes ({error}): it must be possible to pickle it, so it "
            "must not hold a lambda, a lock or an open file; or load in the main process with worker_num=0"
        ) from error


def _can_be_pickled(value: Any) -> bool:
    try:
        PickledOnce(value)
    except Exception:  # whether there is one is the question
        return False
    return True


def _checked(batches: Iterable[dict[str, Any]]) -> Batches:
    for batch in batches:
        raise_failure(batch)
        yield batch


def _as_tensors(batches: Iterable[dict[str, Any]], stop: threading.Event | None = None) -> Batches:
    """Copy the arrays of batches into tensors on Paddle's current device.

    Args:
        batches: dictionaries of arrays, each of which may be valid only until the next one is requested.
        stop: event that ends ``batches``, so that another thread may wait for them; None to stay in this thread.
    """
    import paddle  # imported here because the worker processes import this package and do not need Paddle

    if stop is not None and paddle.get_device().startswith("gpu"):
        from ppdet.data.staging import staged

        yield from staged(batches, stop)
        return
    for batch in batches:
        yield {key: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for key, v in batch.items()}
