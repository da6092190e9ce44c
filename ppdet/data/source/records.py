"""A list of small Python objects in one block of memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["PackedRecords"]


class PackedRecords:
    """Read-only list whose items are kept serialised in one block.

    A worker process is a fork that shares its parent's memory until someone writes to it, and merely looking at a
    Python object writes to it (its reference count): with COCO's millions of coordinates as objects every worker
    would end up with gigabytes of its own. The bytes here are made and read by the same process; nothing is read
    from a file.

    Args:
        items: what to keep; each access returns a fresh copy.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        chunks = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0] + [len(chunk) for chunk in chunks])
        self._data = b"".join(chunks)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        """Return a copy of the item at ``index`` (0 or more)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return pickle.loads(memoryview(self._data)[self._ends[index] : self._ends[index + 1]])
