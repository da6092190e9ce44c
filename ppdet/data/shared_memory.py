"""Anonymous memory shared by processes; the system frees it when the last of them ends or dies.

Linux has ``memfd_create``, which is not subject to a container's limit on ``/dev/shm``; other POSIX systems use a file
that is unlinked as soon as it is created.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ArrayField", "PickledOnce", "Slot", "anonymous_file", "has_anonymous_memory", "write_arrays"]

_ALIGNMENT = 64
"""Arrays begin at multiples of this number of bytes."""

_KEPT = 64 * 2**20
"""Bytes that an unused slot may keep, a compromise between the memory kept and the time to allocate it again."""

_LARGE = 2**20
"""Buffers of at least this many bytes are shared by the workers instead of copied to each."""


class ArrayField(NamedTuple):
    """Position of an array of a batch in a slot."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def has_anonymous_memory() -> bool:
    """Return whether this system has anonymous shared memory without a file on disk (Linux)."""
    try:
        os.close(os.memfd_create("ppdet"))
    except (AttributeError, OSError):
        return False
    return True


def anonymous_file() -> int | None:
    """Return the descriptor of a new, empty file without a name; None where this is not possible (Windows).

    Raises:
        OSError: no file descriptor is available.
    """
    if has_anonymous_memory():
        return os.memfd_create("ppdet")
    if os.name != "posix":
        return None
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(descriptor: int, data: Any, offset: int) -> None:
    """Write all of a contiguous buffer.

    Without free memory, writing through the descriptor raises an exception; writing through a mapping would end the
    process with SIGBUS.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_arrays(descriptor: int, arrays: Mapping[str, np.ndarray]) -> list[ArrayField]:
    """Write arrays into a slot's file and return their positions.

    Raises:
        OSError: there is not enough memory.
    """
    fields, offset = [], 0
    for key, array in arrays.items():
        array = np.ascontiguousarray(array)
        if array.size:
            _write(descriptor, array.reshape(-1).view(np.uint8), offset)
        fields.append(ArrayField(key, array.dtype.str, array.shape, offset))
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    if os.fstat(descriptor).st_size < offset:
        os.ftruncate(descriptor, offset)
    return fields


class Slot:
    """Memory for one batch, written by a worker, read by the main process and then used again."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("ppdet-batch")
        self._map: mmap.mmap | None = None

    def read(self, fields: Sequence[ArrayField]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch without copying them; they are valid until the slot is written to again."""
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)
        arrays = {}
        for key, dtype, shape, offset in fields:
            count = int(np.prod(shape))
            array = np.frombuffer(self._map, dtype, count, offset) if count else np.empty(0, dtype)
            arrays[key] = array.reshape(shape)
        return arrays

    def trim(self, keep: int = _KEPT) -> None:
        """Free the memory if it is more than ``keep`` bytes."""
        if os.fstat(self.descriptor).st_size <= keep:
            return
        try:
            if self._map is not None:
                self._map.close()
        except BufferError:  # an array is still in use
            return
        self._map = None
        os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        """Close the file; the memory is freed with the last process and the last array that use it."""
        self._map = None
        os.close(self.descriptor)


class PickledOnce:
    """An object for several processes, serialised once; they share its large buffers (the annotations).

    The bytes are written and read by processes of the same program, never read from a user's file.

    Args:
        value: object to send.

    Attributes:
        checksum: differs between different objects.

    Raises:
        Exception: any exception of the object's serialisation; OSError if no file descriptor is available.
    """

    def __init__(self, value: Any) -> None:
        blocks: list[memoryview] = []

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes >= _LARGE:
                blocks.append(raw)
            return raw.nbytes < _LARGE

        text = pickle.dumps(value, protocol=5, buffer_callback=is_small)
        self._blocks: list[Any] = [text, *blocks]
        self.checksum = tuple((len(block), zlib.crc32(block)) for block in self._blocks)
        self.descriptor: int | None = None

    def place(self) -> None:
        """Write the bytes into shared memory if the system supports it."""
        self.descriptor = anonymous_file()
        if self.descriptor is None:
            return
        for block, begin in zip(self._blocks, self._places()):
            _write(self.descriptor, block, begin)
        self._blocks = []

    def _places(self) -> list[int]:
        """Return the offset of each block in the file."""
        sizes = np.array([0, *(size for size, _ in self.checksum[:-1])])
        begins: list[int] = np.cumsum(-(-sizes // _ALIGNMENT) * _ALIGNMENT).tolist()
        return begins

    def parcel(self) -> dict[str, Any]:
        """Return what a process needs for ``unpack`` besides the inherited descriptor."""
        spans = [(begin, begin + size) for begin, (size, _) in zip(self._places(), self.checksum)]
        return {"spans": spans, "descriptor": self.descriptor, "blocks": [bytes(block) for block in self._blocks]}

    @staticmethod
    def unpack(parcel: Mapping[str, Any], loads: Any = pickle.loads) -> Any:
        """Return the object, in another process; its large buffers are shared until they are written to."""
        blocks = parcel["blocks"]
        if parcel["descriptor"] is not None:
            view = memoryview(mmap.mmap(parcel["descriptor"], 0, access=mmap.ACCESS_COPY))
            blocks = [view[begin:end] for begin, end in parcel["spans"]]
        return loads(blocks[0], buffers=blocks[1:])

    def close(self) -> None:
        """Close this process's descriptor."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
