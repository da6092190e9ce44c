"""Readers, which turn a dataset into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppdet.core.config.ranges import NonNegative, PositiveInt, WorkerCount
from ppdet.core.workspace import ParameterError, build_op, register
from ppdet.data.collate import PadBatch
from ppdet.data.loader import Loader
from ppdet.data.sampler import EvalBatchSampler, GroupedBatchSampler
from ppdet.utils.errors import UserError

__all__ = ["EvalReader", "Loader", "TestReader", "TrainReader"]


class _Reader:
    """Base class of the three readers.

    Args:
        sample_transforms: transforms of a sample, in order; the first one is Decode.
        batch_transforms: PadBatch.
        batch_size: images per batch and process; in training the batches of all processes together must not exceed the
            number of images.
        total_batch_size: images per batch over all processes, in place of ``batch_size``; the batch then does not
            depend on the number of processes.
        shuffle: draw a new order in each epoch.
        drop_last: leave out incomplete batches.
        collate_batch: accepted for compatibility with PaddleDetection's configs; has no effect.
        drop_empty: accepted for compatibility with PaddleDetection's configs; has no effect. Evaluation reads every
            image, and ``allow_empty`` of the dataset decides for training.
        use_shared_memory: pass batches through shared memory if the system supports it, otherwise through pipes.
        inputs_def: PaddleDetection's key; the export reads its ``image_shape``.
        worker_num: number of worker processes; 0 loads in the main process.
        worker_timeout: seconds to wait for a batch before the run ends with a report on the workers; 0 waits forever.
    """

    __operations__ = ("sample_transforms", "batch_transforms")

    training = False

    def __init__(
        self,
        *,
        sample_transforms: Sequence[Any] = (),
        batch_transforms: Sequence[Any] = (),
        batch_size: PositiveInt = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_batch: bool = False,
        drop_empty: bool = False,
        use_shared_memory: bool = True,
        inputs_def: Any = None,
        worker_num: WorkerCount | None = None,
        total_batch_size: PositiveInt | None = None,
        worker_timeout: NonNegative = 900.0,
    ) -> None:
        if total_batch_size is not None:
            batch_size = _share(total_batch_size, _place()[1])
        self.transforms = self._built("sample_transforms", sample_transforms)
        batch_ops = self._built("batch_transforms", batch_transforms)
        if any(not callable(op) for op in self.transforms):
            raise ParameterError("{0} has PadBatch, which belongs to {1}", "sample_transforms", "batch_transforms")
        paddings = [op for op in batch_ops if isinstance(op, PadBatch)]
        if len(paddings) < len(batch_ops):
            raise ParameterError("{0} supports only PadBatch", "batch_transforms")
        self.padding = paddings[-1] if paddings else PadBatch()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.use_shared_memory = use_shared_memory
        self.inputs_def = inputs_def
        self.worker_num = worker_num
        self.worker_timeout = worker_timeout

    def _built(self, name: str, entries: Sequence[Any]) -> list[Any]:
        return [build_op(entry, f"{type(self).__name__}.{name}.{place}") for place, entry in enumerate(entries)]

    def __call__(self, dataset: Any, worker_num: int | None = None) -> Loader:
        """Build the loader of a dataset for this rank."""
        workers = next((n for n in (self.worker_num, worker_num) if n is not None), 2)
        return Loader(
            dataset=dataset,
            sampler=self._sampler(dataset),
            transforms=self.transforms,
            padding=self.padding,
            training=self.training,
            workers=workers,
            use_shared_memory=self.use_shared_memory,
            timeout=self.worker_timeout,
        )

    def _sampler(self, dataset: Any) -> GroupedBatchSampler | EvalBatchSampler:
        return EvalBatchSampler(len(dataset), self.batch_size, *_place())


def _place() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    import paddle.distributed  # imported here because the worker processes import this package and do not need Paddle

    return paddle.distributed.get_rank(), paddle.distributed.get_world_size()


def _share(total: int, processes: int) -> int:
    """Return the number of images for each process.

    Raises:
        UserError: the total is not a multiple of the number of processes.
    """
    if total < 1 or total % processes:
        raise UserError(
            f"total_batch_size is {total}, which {processes} processes cannot share equally: choose a multiple of "
            f"{processes}, or another number of processes"
        )
    return total // processes


@register
class TrainReader(_Reader):
    """Reader of training batches; the images of a batch have the same orientation."""

    training = True

    def _sampler(self, dataset: Any) -> GroupedBatchSampler | EvalBatchSampler:
        landscape = [dataset.is_landscape(index) for index in range(len(dataset))]
        rank, world = _place()
        if not landscape:
            kind = type(dataset).__name__
            raise UserError(f"TrainDataset ({kind}) has no images to train on: use a COCODataSet with objects")
        if self.batch_size * world > len(dataset):
            processes = f" on each of {world} processes" if world > 1 else ""
            raise UserError(
                f"the batch size of TrainReader is {self.batch_size}{processes}, but there are only "
                f"{len(dataset)} training images: set TrainReader.batch_size to {max(1, len(dataset) // world)} or less"
                + (" and start fewer processes" if len(dataset) < world else "")
            )
        return GroupedBatchSampler(
            landscape=landscape,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world,
        )


@register
class EvalReader(_Reader):
    """Reader of evaluation batches, with every image once."""


@register
class TestReader(_Reader):
    """Reader of images to predict."""
