"""The data of a PyTorch checkpoint: storages are blocks of the file, and tensors are views of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy.common.machine import available_cores
from ppdet.checkpoint.formats.pickle_limits import FREE_BYTES, Refused
from ppdet.checkpoint.formats.pth_pickle import TensorView

__all__ = ["Storages"]


@dataclass
class Storages:
    """The storages of a checkpoint.

    Attributes:
        path: the file.
        places: position of the first byte and number of bytes by storage key.
        order: byte order in NumPy's notation.
        packed: contents of the storages that are compressed in an archive.
        checksums: CRC-32 of the other storages of an archive.
    """

    path: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    order: str = "<"
    packed: dict[str, bytes] = field(default_factory=dict)
    checksums: dict[str, int] = field(default_factory=dict)
    _copied: int = 0
    _mapped: np.ndarray | None = None

    def _block(self, key: str) -> np.ndarray:
        """Return the bytes of a storage, which are read on access."""
        if key in self.packed:
            return np.frombuffer(self.packed[key], np.uint8)
        if key not in self.places:
            raise Refused(f"storage {key!r} is missing")
        if self._mapped is None:  # only once, as every mapping keeps a file open
            self._mapped = np.memmap(self.path, np.uint8, "r")
        start, size = self.places[key]
        if start + size > self._mapped.size:
            raise Refused(f"storage {key!r} is cut off")
        return self._mapped[start : start + size]

    def verify(self, keys: Iterable[str]) -> None:
        """Verify the checksums of some storages on all cores; one core processes half a gigabyte per second.

        Raises:
            Refused: the content of a storage has changed.
        """
        # PyTorch can be configured to omit the checksums, which are zero then.
        checked = sorted({key for key in keys if self.checksums.get(key)})
        if not checked:
            return
        with ThreadPoolExecutor(min(8, available_cores())) as pool:
            for key, checksum in zip(checked, pool.map(zlib.crc32, map(self._block, checked))):
                if checksum != self.checksums[key]:
                    raise Refused(f"the checksum of storage {key!r} differs: bytes of it have changed")

    def array(self, tensor: TensorView) -> np.ndarray:
        """Return the elements of a tensor; bfloat16 is converted to float32.

        Raises:
            Refused: the tensor exceeds its storage, or its element type is unknown.
        """
        storage, code = tensor.storage, tensor.storage.element
        if code.endswith("Storage"):
            raise Refused(f"element type {code} is not supported: convert the tensor to float32")
        dtype = np.dtype(self.order + ("u2" if code == "bf16" else code))
        block = self._block(storage.key)
        first, last = storage.offset * dtype.itemsize, (storage.offset + storage.count) * dtype.itemsize
        if storage.offset < 0 or storage.count < 0 or last > block.size:
            raise Refused(f"storage {storage.key!r} is shorter than it should be")
        view = _strided(block[first:last].view(dtype), tensor)
        if code == "bf16" or not view.dtype.isnative:
            self._count_copy(4 * view.size if code == "bf16" else view.nbytes)
        if code == "bf16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view if view.dtype.isnative else view.astype(view.dtype.newbyteorder("="))

    def _count_copy(self, size: int) -> None:
        """Refuse files whose tensors convert the same storage many times."""
        self._copied += size
        if self._copied > 4 * (self.path.stat().st_size + sum(map(len, self.packed.values()))) + FREE_BYTES:
            raise Refused("many tensors made of one storage")


def _strided(flat: np.ndarray, tensor: TensorView) -> np.ndarray:
    """Return a view of the elements of a storage in the shape of a tensor.

    Raises:
        Refused: the view does not fit the storage.
    """
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((tensor.offset, *shape, *strides)) < 0:
        raise Refused(f"a tensor of shape {shape} with strides {strides}")
    count = 1
    for side in shape:
        count *= side
    if count == 0:
        return np.zeros(shape, flat.dtype)
    if tensor.offset + sum((side - 1) * step for side, step in zip(shape, strides)) >= flat.size:
        raise Refused(f"a tensor of shape {shape} reaches beyond its storage")
    if count > max(flat.size, FREE_BYTES):
        raise Refused(f"a tensor of shape {shape} repeats the {flat.size} elements of its storage too often")
    steps = [step * flat.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, steps, writeable=False)
