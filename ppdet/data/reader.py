"""Readers: a data set, transforms and batches behind one iterable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from ppdet.core.workspace import build_op, register
from ppdet.data.collate import PadBatch, collate
from ppdet.data.sampler import EvalBatchSampler, GroupedBatchSampler
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

__all__ = ["EvalReader", "Loader", "TestReader", "TrainReader"]

_WORKER_TIMEOUT = 600
"""Seconds that a batch may take before the workers count as dead."""


class _Transformed(Dataset):
    """Samples after the transforms; a sample's random draws depend on seed, epoch and index, not on the worker.

    A user's mistake (a broken image) travels as a value: a worker's traceback would hide the one line that matters.
    """

    def __init__(self, source: Any, transforms: Sequence[Any]) -> None:
        super().__init__()
        self.source = source
        self.transforms = transforms
        self.seed = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        try:
            sample: Sample = self.source[index]
            for transform in self.transforms:
                sample = transform(sample, rng)
        except UserError as error:
            return error
        return sample


class _Collate:
    """What a worker does with its samples."""

    def __init__(self, padding: PadBatch, training: bool) -> None:
        self.padding = padding
        self.training = training

    def __call__(self, samples: Sequence[Sample | UserError]) -> dict[str, Any]:
        good = [sample for sample in samples if isinstance(sample, Sample)]
        if len(good) < len(samples):
            messages = [str(error) for error in samples if isinstance(error, UserError)]
            return {"error": messages[0]}
        return collate(good, self.padding, self.training)


class Loader:
    """Batches of one process.

    Attributes:
        dataset: the source of the samples.
        batch_size: images per batch.
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
        self.dataset = dataset
        self.batch_size = sampler.batch_size
        self._sampler = sampler
        self._samples = _Transformed(dataset, transforms)
        self._collate = _Collate(padding, training)
        self._workers = workers
        self._shared = use_shared_memory

    def set_seed(self, seed: int) -> None:
        """Choose what all random draws derive from."""
        self._sampler.seed = self._samples.seed = seed

    def set_epoch(self, epoch: int, start_iter: int = 0) -> None:
        """Choose the epoch, and the batch of it to begin with."""
        self._sampler.epoch, self._sampler.start = epoch, start_iter

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches as dictionaries of tensors.

        Raises:
            UserError: an image that cannot be used, or a worker process that died.
        """
        loader = DataLoader(
            self._samples,
            batch_sampler=self._sampler,
            collate_fn=self._collate,
            num_workers=self._workers,
            use_shared_memory=self._shared,
            return_list=True,
            timeout=_WORKER_TIMEOUT if self._workers else 0,
            places=paddle.CPUPlace() if not paddle.is_compiled_with_cuda() else None,
        )
        try:
            for batch in loader:
                if "error" in batch:
                    raise UserError(batch["error"])
                yield batch
        except (RuntimeError, SystemError) as error:
            if "worker" not in str(error).lower():
                raise
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"a data worker died ({reason}): out of memory or of shared memory (/dev/shm)? Try a smaller "
                "worker_num, or use_shared_memory: false in the reader"
            ) from error


class _Reader:
    """What the three readers share.

    Args:
        sample_transforms: transforms of a sample, in order; the first is Decode.
        batch_transforms: PadBatch.
        batch_size: images per batch and process.
        shuffle: new order each epoch.
        drop_last: leave incomplete batches out.
        collate_batch: accepted for PaddleDetection's configs.
        use_shared_memory: workers hand batches over in /dev/shm.
        inputs_def: accepted for PaddleDetection's configs; ``image_shape`` serves the export.
        worker_num: worker processes; 0 loads in the main process.
    """

    training = False

    def __init__(
        self,
        sample_transforms: Sequence[Any] = (),
        batch_transforms: Sequence[Any] = (),
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_batch: bool = False,
        use_shared_memory: bool = True,
        inputs_def: Any = None,
        worker_num: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected at least 1")
        self.transforms = [build_op(entry) for entry in sample_transforms]
        batch_ops = [build_op(entry) for entry in batch_transforms]
        paddings = [op for op in batch_ops if isinstance(op, PadBatch)]
        if len(paddings) < len(batch_ops):
            raise UserError("batch_transforms knows only PadBatch")
        self.padding = paddings[-1] if paddings else PadBatch()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.use_shared_memory = use_shared_memory
        self.inputs_def = inputs_def
        self.worker_num = worker_num

    def __call__(self, dataset: Any, worker_num: int | None = None) -> Loader:
        """Build this rank's loader of a data set."""
        workers = next((n for n in (self.worker_num, worker_num) if n is not None), 2)
        return Loader(
            dataset,
            self._sampler(dataset),
            self.transforms,
            self.padding,
            self.training,
            workers,
            self.use_shared_memory,
        )

    def _sampler(self, dataset: Any) -> GroupedBatchSampler | EvalBatchSampler:
        rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        return EvalBatchSampler(len(dataset), self.batch_size, rank, world)


@register
class TrainReader(_Reader):
    """Reader of training batches, formed among images of the same orientation."""

    training = True

    def _sampler(self, dataset: Any) -> GroupedBatchSampler | EvalBatchSampler:
        landscape = [dataset.is_landscape(index) for index in range(len(dataset))]
        rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        return GroupedBatchSampler(landscape, self.batch_size, self.shuffle, self.drop_last, rank, world)


@register
class EvalReader(_Reader):
    """Reader of evaluation batches: every image once."""


@register
class TestReader(_Reader):
    """Reader of images to predict."""
