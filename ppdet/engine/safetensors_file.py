"""The safetensors format: length of the header, header in JSON, blocks in little-endian order.

Read by this module itself, as NumPy has no bfloat16, and what a file claims is to be checked before it is believed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from deploy.common.printable import one_line
from ppdet.engine.pickle_limits import MOST_DIMENSIONS, brief
from ppdet.utils.errors import UserError

__all__ = ["ELEMENTS", "read_metadata", "read_safetensors"]

ELEMENTS = {
    **{f"f{size}": f"F{8 * size}" for size in (2, 4, 8)},
    **{f"i{size}": f"I{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"U{8 * size}" for size in (1, 2, 4, 8)},
    "b1": "BOOL",
}
"""The format's name of an element type by NumPy's."""

_DTYPES = {kind: np.dtype("<" + code) for code, kind in ELEMENTS.items()}
_BFLOAT16 = "BF16"
_LARGEST_HEADER = 1 << 22
"""Bytes, enough for 40,000 tensors."""


class _Damaged(ValueError):
    """What is wrong with the file."""


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Read a file into arrays by name.

    Returns:
        Read-only arrays backed by the file, in the file's order. bfloat16 is float32.

    Raises:
        UserError: the file is missing, damaged, contradicts itself, or has elements of a type that NumPy lacks.
    """
    try:
        entries, _, start = _read_header(file)
        blocks = np.memmap(file, np.uint8, "r") if entries else np.zeros(0, np.uint8)
        _check_places(entries, blocks.size - start if entries else 0)
        return {name: _array(blocks[start:], name, entry) for name, entry in entries.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise _complaint(file, error) from error


def read_metadata(file: Path) -> dict[str, str]:
    """Return the texts that a file has beside its tensors, by name.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return _read_header(file)[1]
    except (OSError, ValueError, RecursionError) as error:
        raise _complaint(file, error) from error


def _complaint(file: Path, error: Exception) -> UserError:
    if isinstance(error, OSError):
        return UserError(f"cannot read the checkpoint {file}: {error.strerror or error}")
    return UserError(f"{file} is damaged or no safetensors file ({one_line(error, 200)}); copy or download it again")


def _read_header(file: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Return the entries of the tensors, the metadata and the first byte of the blocks."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise _Damaged("it ends before its header does")
        if length > _LARGEST_HEADER:
            raise _Damaged(f"a header of {length} bytes")
        text = stream.read(length)
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(header, dict):
        raise _Damaged(f"its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _Damaged("its metadata are no texts by name")
    return header, metadata, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise _Damaged("a name occurs twice in its header")
    return entries


def _refuse_constant(name: str) -> NoReturn:
    raise _Damaged(f"{name} in its header")


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _check_places(entries: dict[str, Any], total: int) -> None:
    """Check that the tensors' blocks follow each other and fill the file, each as long as its shape says."""
    places = []
    for name, entry in entries.items():
        label = brief(name)
        if not isinstance(entry, dict) or not _whole_numbers(entry.get("shape")):
            raise _Damaged(f"{label} has no shape")
        if not _whole_numbers(entry.get("data_offsets")) or len(entry["data_offsets"]) != 2:
            raise _Damaged(f"{label} has no place")
        kind, shape, (begin, end) = entry.get("dtype"), entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in (_BFLOAT16, *_DTYPES):
            raise _Damaged(f"{label} has elements of type {brief(kind)}, which is not read: convert it to F32")
        itemsize = 2 if kind == _BFLOAT16 else _DTYPES[kind].itemsize
        if len(shape) > MOST_DIMENSIONS or math.prod(shape) * itemsize != end - begin:
            raise _Damaged(f"{label} of shape {brief(shape)} and type {kind} has {end - begin} bytes")
        places.append((begin, end, label))
    expected = 0
    for begin, end, label in sorted(places):
        if begin != expected:
            raise _Damaged(f"{label} begins at byte {begin} instead of {expected}")
        expected = end
    if expected != total:
        raise _Damaged(f"its tensors take {expected} bytes, it has {total}")


def _array(blocks: np.ndarray, name: str, entry: dict[str, Any]) -> np.ndarray:
    begin, end = entry["data_offsets"]
    if entry["dtype"] == _BFLOAT16:  # the upper halves of float32 words
        halves = blocks[begin:end].view("<u2").reshape(entry["shape"])
        return (halves.astype(np.uint32) << 16).view(np.float32)
    array = blocks[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return np.require(array, requirements="A")
