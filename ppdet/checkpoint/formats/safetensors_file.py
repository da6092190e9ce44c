"""Reading the safetensors format, including bfloat16, which NumPy does not support."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from deploy.common.printable import one_line
from ppdet.utils.errors import UserError

__all__ = ["ELEMENTS", "read_metadata", "read_safetensors"]

ELEMENTS = {
    **{f"f{size}": f"F{8 * size}" for size in (2, 4, 8)},
    **{f"i{size}": f"I{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"U{8 * size}" for size in (1, 2, 4, 8)},
    "b1": "BOOL",
}
"""Names of element types in the format by their names in NumPy."""

_BFLOAT16 = "BF16"
_MAX_DIMENSIONS = 32
"""NumPy 1 does not support more."""

_DAMAGED = (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Read a file into arrays by name, in the order of the names.

    Returns:
        The arrays; bfloat16 is converted to float32.

    Raises:
        UserError: the file is missing, damaged or inconsistent, or has elements of an unsupported type.
    """
    try:
        with safe_open(file, framework="np") as content:
            kinds = {name: _checked_kind(name, content.get_slice(name)) for name in content.keys()}  # noqa: SIM118
            arrays = {name: content.get_tensor(name) for name, kind in kinds.items() if kind != _BFLOAT16}
        halves = {name for name, kind in kinds.items() if kind == _BFLOAT16}
        if halves:  # the library cannot return them as arrays, so the whole file is read
            arrays.update({name: _widened(e) for name, e in deserialize(file.read_bytes()) if name in halves})
    except _DAMAGED as error:
        raise _complaint(file, error) from error
    return {name: arrays[name] for name in sorted(arrays)}


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file, texts by name.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(file, framework="np") as content:
            return dict(content.metadata() or {})
    except _DAMAGED as error:
        raise _complaint(file, error) from error


def _complaint(file: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read the checkpoint {file}: {error.strerror}")
    return UserError(f"{file} is damaged or not a safetensors file ({one_line(error, 200)}); copy or download it again")


def _checked_kind(name: str, part: object) -> str:
    """Return the element type of a tensor.

    Raises:
        ValueError: NumPy does not support the type or the number of dimensions.
    """
    kind, shape = str(part.get_dtype()), part.get_shape()  # type: ignore[attr-defined]
    if kind != _BFLOAT16 and kind not in ELEMENTS.values():
        raise ValueError(f"{name!r} has elements of type {kind}, which is not supported: convert it to F32")
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{name!r} has {len(shape)} dimensions")
    return kind


def _widened(entry: dict[str, object]) -> np.ndarray:
    """Return bfloat16 elements, the upper halves of float32 words, as float32."""
    halves = np.frombuffer(entry["data"], "<u2").reshape(entry["shape"])  # type: ignore[call-overload]
    return (halves.astype(np.uint32) << 16).view(np.float32)
