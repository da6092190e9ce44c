"""Weight files: finding, reading and writing them.

A file is ``.pdparams`` (Paddle's pickle, read by `ppdet.engine.unpickle`), ``.safetensors`` or PyTorch's ``.pth`` (read
by `ppdet.engine.pth`). Its content is a flat dictionary of parameter names and arrays.
"""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from deploy.common.atomic import atomic_files
from ppdet.engine.paddle_layout import NAME_TABLE, flat_arrays
from ppdet.engine.pickle_limits import brief, check_total
from ppdet.engine.pth import read_pth
from ppdet.engine.safetensors_file import ELEMENTS, read_safetensors
from ppdet.engine.unpickle import load_pickle
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["array_fingerprint", "dump_state", "find_weights", "read_state", "write_state"]

logger = setup_logger(__name__)

_LONGEST_NAME = 1000


def find_weights(path: str | Path) -> Path:
    """Return the weight file meant by ``path``, which may lack its extension.

    A name without extension means the ``.safetensors`` file, which is data and nothing else. Where the ``.pdparams``
    beside it is newer (somebody exchanged it, or writing the pair was cut off) it means that, and the log says so.

    Raises:
        UserError: no such file.
    """
    try:
        return _find(Path(path).expanduser())
    except OSError as error:  # a name longer than the file system allows, a folder without permission
        raise UserError(f"cannot look for the weights {path}: {error.strerror or error}") from error


def _find(given: Path) -> Path:
    if given.suffix in (".pdparams", ".safetensors", ".pth", ".pt"):
        if given.is_file():
            return given
        raise UserError(f"weights {given} do not exist")
    if given.suffix == ".pdopt":
        given = given.with_suffix("")
    pickled, twin = Path(f"{given}.pdparams"), Path(f"{given}.safetensors")
    if twin.is_file() and not (pickled.is_file() and pickled.stat().st_mtime > twin.stat().st_mtime):
        return twin
    if pickled.is_file():
        if twin.is_file():
            logger.warning("%s is newer than its twin %s, which is left alone; name one to choose", pickled, twin)
        return pickled
    if given.is_file():
        raise UserError(f"weights {given} are of an unknown kind; .pdparams, .safetensors and .pth files are read")
    raise UserError(f"weights {given}.pdparams do not exist; give a path with or without .pdparams")


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Read a weight file (with or without extension) into arrays by parameter name.

    Raises:
        UserError: the file is missing, damaged, no weight file, or wants to run code.
    """
    file = find_weights(path)
    if file.suffix == ".safetensors":
        arrays = read_safetensors(file)
    elif file.suffix in (".pth", ".pt"):
        arrays = read_pth(file)
    else:
        content = load_pickle(file)
        if not isinstance(content, dict):
            raise UserError(f"{file} holds a {type(content).__name__}, not tensors by name")
        arrays = flat_arrays(file, content)
    _check_arrays(file, arrays)
    return arrays


def _check_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Check what files of every format have in common.

    Raises:
        UserError: no tensors, a name that cannot be written down, elements that are no numbers, or far more of them
            than the file has.
    """
    if not arrays:
        raise UserError(f"{file} holds no tensors; is it a weight file?")
    for name, array in arrays.items():
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise UserError(f"{file}: {brief(name)} is no name of a tensor; the file is damaged, copy it again")
        if array.dtype.kind not in "biuf":
            raise UserError(f"{file}: '{name}' has elements of type {array.dtype}, weights are real numbers")
    check_total(file, arrays.values())


def array_fingerprint(arrays: Mapping[str, np.ndarray]) -> int:
    """CRC-32 over names and contents, whatever file the arrays come from; tells whether two files belong together."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return value


def write_state(arrays: Mapping[str, np.ndarray], stem: str | Path) -> None:
    """Write ``<stem>.pdparams`` (which ``paddle.load`` reads, too) and its twin ``<stem>.safetensors``.

    No more than one array is copied at a time, whether in memory or mapped from a file.

    Raises:
        UserError: a file cannot be written; older files under those names stay whole.
    """
    with atomic_files([f"{stem}.pdparams", f"{stem}.safetensors"]) as (pickled, twin):
        dump_state(arrays, pickled, twin)


def dump_state(arrays: Mapping[str, np.ndarray], pickled: Path, twin: Path) -> None:
    """Write the two files of `write_state` under any names, for a caller that gives them their final ones."""
    with open(pickled, "wb") as stream:
        pickler = pickle.Pickler(stream, protocol=4)
        pickler.fast = True  # the memo would keep a copy of every array to the end
        pickler.dump({**arrays, NAME_TABLE: {name: name for name in arrays}})
    with open(twin, "wb") as stream:
        _write_safetensors(arrays, stream)


def _write_safetensors(arrays: Mapping[str, np.ndarray], stream: IO[bytes]) -> None:
    """Write the safetensors format: length of the header, header in JSON, blocks in little-endian order."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # large elements first: all aligned
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    end = 0
    for name in order:
        array = arrays[name]
        begin, end = end, end + array.nbytes
        kind = ELEMENTS[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        array = arrays[name]
        stream.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
