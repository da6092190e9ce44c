"""Batches on their way to a GPU: the next one is copied through pinned memory while the present one is computed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from paddle.io import DataLoader, IterableDataset

__all__ = ["staged"]


class _Stream(IterableDataset):
    """Batches as Paddle's reader asks for them, from a thread; an exception ends them and is kept."""

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches
        except Exception as error:  # the main thread raises it: Paddle's would print a traceback and lose it
            self.error = error


def staged(batches: Iterable[dict[str, Any]], stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield batches as dictionaries of tensors on Paddle's present device.

    Args:
        batches: dictionaries of arrays, which may be good only until the next one is asked for.
        stop: set when no more batches are wanted; ``batches`` must end soon after.

    Raises:
        Exception: whatever ``batches`` raises.
    """
    stream = _Stream(batches)
    reader: Any = iter(DataLoader(stream, batch_size=None, collate_fn=_as_it_is, num_workers=0, return_list=True))
    try:
        yield from reader
        if stream.error is not None:
            raise stream.error
    finally:
        stop.set()
        # Dropping the iterator would not do: its thread keeps it alive.
        reader._try_shutdown_all()


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
