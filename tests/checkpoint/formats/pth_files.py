"""Checkpoints in PyTorch's two formats, written opcode by opcode, so that honest and hostile ones need no PyTorch."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

STORAGES = {"f4": b"FloatStorage", "f8": b"DoubleStorage", "f2": b"HalfStorage", "i8": b"LongStorage"}


def integer(value: int) -> bytes:
    """Opcodes of an integer of up to 32 bits."""
    return b"J" + struct.pack("<i", value)


def text(value: str) -> bytes:
    """Opcodes of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def texts(*values: str) -> bytes:
    """Opcodes of a tuple of texts."""
    return b"(" + b"".join(text(value) for value in values) + b"t"


def sizes(values: Iterable[int]) -> bytes:
    """Opcodes of a tuple of integers."""
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def view(
    key: str, count: int, offset: int, shape: Iterable[int], strides: Iterable[int], kind: bytes = b"FloatStorage"
) -> bytes:
    """Opcodes of a tensor that is a view of a storage."""
    storage = b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + integer(count) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage + integer(offset) + sizes(shape) + sizes(strides))
        + b"\x89NtR"
    )


def mapping(items: Mapping[str, bytes]) -> bytes:
    """Opcodes of a dictionary."""
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def pickled(value: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + value + b"."


def tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Opcodes of a state dictionary whose storages are numbered from 0."""
    items = {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        kind = STORAGES[array.dtype.str[1:]]
        items[name] = view(str(key), array.size, 0, array.shape, strides, kind)
    return mapping(items)


def write_archive(path: Path, opcodes: bytes, storages: Mapping[str, bytes], compression: int = 0) -> Path:
    """Write a zip archive around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled(opcodes))
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


def write_pth(path: Path, arrays: Mapping[str, np.ndarray], nested: bool = True, compression: int = 0) -> Path:
    """Write a checkpoint as PyTorch does since 1.6."""
    opcodes = tensors(arrays)
    storages = {str(key): np.ascontiguousarray(array).tobytes() for key, array in enumerate(arrays.values())}
    return write_archive(path, mapping({"state_dict": opcodes}) if nested else opcodes, storages, compression)


def write_stream(path: Path, opcodes: bytes, storages: Mapping[str, np.ndarray]) -> Path:
    """Write a checkpoint as PyTorch did before 1.6."""
    magic = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
    parts = [
        pickled(b"\x8a\x0a" + magic),
        pickled(b"M\xe9\x03"),
        pickled(mapping({"little_endian": b"\x88"})),
        pickled(opcodes),
        pickled(b"](" + b"".join(text(key) for key in storages) + b"e"),
    ]
    blocks = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(parts + blocks))
    return path
