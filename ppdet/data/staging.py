"""Prefetching of batches to a GPU: the next one is copied through pinned memory while the current one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from paddle.io import DataLoader, IterableDataset

__all__ = ["staged"]


class _Stream(IterableDataset):
    """Batches for Paddle's reader, which iterates in a thread; an exception ends the stream and is kept."""

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches
        except Exception as error:  # raised by the main thread; Paddle's thread would print a traceback and drop it
            self.error = error


def staged(batches: Iterable[dict[str, Any]], stop: threading.Event) -> Iterator[dict[str, Any]]:
    """Yield batches as dictionaries of tensors on Paddle's current device.

    Args:
        batches: dictionaries of arrays, each of which may be valid only until the next one is requested.
        stop: set when this generator is closed; ``batches`` must end soon after.

    Raises:
        Exception: any exception of ``batches``.
    """
    stream = _Stream(batches)
    reader: Any = iter(DataLoader(stream, batch_size=None, collate_fn=_as_it_is, num_workers=0, return_list=True))
    try:
        yield from reader
        if stream.error is not None:
            raise stream.error
    finally:
        stop.set()
        # Deleting the iterator is not enough because its thread keeps it alive.
        reader._try_shutdown_all()


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
