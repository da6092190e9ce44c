"""A list of small Python objects in one block of memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["PackedRecords"]


class PackedRecords:
    """Read-only list whose items are serialised in one block of memory.

    As Python objects, COCO's millions of coordinates would take gigabytes in each of the worker processes. Pickle
    passes the block as an out-of-band buffer, so that all workers share one copy. Its bytes are written and read by
    processes of the same program, never read from a file.

    Args:
        items: the items; each access returns a new copy.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        chunks = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0] + [len(chunk) for chunk in chunks])
        self._data: bytes | memoryview = b"".join(chunks)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Make pickle pass the block as an out-of-band buffer."""
        if protocol < 5:
            return super().__reduce_ex__(protocol)
        return _restored, (self._ends, pickle.PickleBuffer(self._data))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        """Return a copy of the item at ``index``, which must not be negative."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return pickle.loads(memoryview(self._data)[self._ends[index] : self._ends[index + 1]])


def _restored(ends: np.ndarray, data: bytes | memoryview) -> PackedRecords:
    """Reassemble records in another process."""
    records = PackedRecords(())
    records._ends, records._data = ends, data
    return records
