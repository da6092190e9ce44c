"""Finding, reading and writing weight files.

A weight file is a ``.pdparams`` file (Paddle's pickle), a ``.safetensors`` file or a ``.pth`` file of PyTorch, read by
`ppdet.checkpoint.formats`. It contains a flat dictionary of arrays by parameter name and, encoded in JSON, the classes
that the model was trained for: ``.safetensors`` stores them as metadata, ``.pdparams`` as an additional array of bytes.
"""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from deploy.common.atomic import atomic_files
from ppdet.checkpoint.formats.paddle_layout import CLASS_RECORD, NAME_TABLE, flat_arrays
from ppdet.checkpoint.formats.pickle_limits import brief, check_total
from ppdet.checkpoint.formats.pth import read_checkpoint
from ppdet.checkpoint.formats.safetensors_file import ELEMENTS, read_metadata, read_safetensors
from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.zoo import close_names
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "WeightFile",
    "array_fingerprint",
    "dump_state",
    "find_weights",
    "read_state",
    "read_weights",
    "write_state",
]

logger = setup_logger(__name__)

_LONGEST_NAME = 1000
_SUFFIXES = (".pdparams", ".safetensors", ".pth", ".pt")
_LISTED = 6
"""Number of checkpoints of a folder that a message lists."""
CLASS_METADATA = "categories"
"""Name of the classes in the metadata of a ``.safetensors`` file."""


def find_weights(path: str | Path) -> Path:
    """Return the weight file that ``path`` refers to, which may lack its extension.

    A path without extension refers to the ``.safetensors`` file, which cannot contain code. If the ``.pdparams`` file
    of the same name is newer (because it was replaced, or because writing the pair was interrupted), that file is used
    and a warning is logged.

    Raises:
        UserError: there is no such file.
    """
    try:
        return _find(Path(path).expanduser())
    except OSError as error:  # a name longer than the file system allows, a folder without permission
        raise UserError(f"cannot look for the weights {path}: {error.strerror or error}") from error


def _find(path: Path) -> Path:
    if path.suffix in _SUFFIXES:
        if path.is_file():
            return path
        if path.is_dir():
            raise UserError(_about_folder(path))
        raise UserError(f"weights {path} do not exist; check the path")
    if path.suffix == ".pdopt":
        path = path.with_suffix("")
    pickled, twin = Path(f"{path}.pdparams"), Path(f"{path}.safetensors")
    if twin.is_file() and not (pickled.is_file() and pickled.stat().st_mtime > twin.stat().st_mtime):
        return twin
    if pickled.is_file():
        if twin.is_file():
            logger.warning(
                "%s is newer than %s, which is ignored; give the name with its extension to choose", pickled, twin
            )
        return pickled
    if path.is_file():
        raise UserError(f"weights {path} are of an unknown kind; .pdparams, .safetensors and .pth files are supported")
    if path.is_dir():
        raise UserError(_about_folder(path))
    near = " or ".join(f"weights={name}" for name in close_names(path.name)) if path.name == str(path) else ""
    zoo = f", or a name of the zoo: {near}" if near else ""
    raise UserError(
        f"weights {path}.pdparams do not exist; give the path of a checkpoint, with or without .pdparams, such as "
        f"-o weights=output/NAME/best_model{zoo}"
    )


def _about_folder(folder: Path) -> str:
    """Describe which checkpoints a folder contains that was given instead of a file: best, last, then newest."""
    if (folder / "infer_cfg.yml").is_file():
        return (
            f"weights {folder} is an exported model; deploy/python/infer.py --model_dir runs it, the tools take the "
            "checkpoint that it was exported from"
        )
    newest: dict[str, float] = {}
    for file in folder.iterdir():
        if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file():
            stem = file.with_suffix("").name if file.suffix in (".pdparams", ".safetensors") else file.name
            newest[stem] = max(newest.get(stem, 0.0), file.stat().st_mtime)
    if not newest:
        return f"weights {folder} is a folder without checkpoints ({', '.join(_SUFFIXES)}); name a weight file"
    stems = sorted(newest, key=lambda stem: (stem != "best_model", stem != "model_final", -newest[stem]))
    more = f" and {len(stems) - _LISTED} more" if len(stems) > _LISTED else ""
    return (
        f"weights {folder} is a folder; name one of its checkpoints: weights={folder / stems[0]} "
        f"(it has {', '.join(stems[:_LISTED])}{more})"
    )


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes:
        path: the file.
        arrays: the arrays by parameter name.
        categories: the classes that the model was trained for, None if the file does not contain them.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    categories: Categories | None = None


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a weight file by parameter name, see `read_weights`."""
    return read_weights(path).arrays


def read_weights(path: str | Path) -> WeightFile:
    """Read a weight file.

    Args:
        path: with or without its extension.

    Raises:
        UserError: the file is missing, damaged, not a weight file, or contains code.
    """
    file = find_weights(path)
    if file.suffix == ".safetensors":
        arrays = read_safetensors(file)
        categories = _categories(file, read_metadata(file).get(CLASS_METADATA))
    elif file.suffix in (".pth", ".pt"):
        arrays, names = read_checkpoint(file)
        categories = None if names is None else Categories.from_names(names)
    else:
        content = load_pickle(file)
        if not isinstance(content, dict):
            raise UserError(f"{file} holds a {type(content).__name__}, not tensors by name")
        categories = _categories(file, content.pop(CLASS_RECORD, None))
        arrays = flat_arrays(file, content)
    _check_arrays(file, arrays)
    return WeightFile(file, arrays, categories)


def _categories(file: Path, record: Any) -> Categories | None:
    """Parse the classes of a file.

    Args:
        file: the file, for messages.
        record: a text, an array of bytes, or None if the file does not contain classes.

    Raises:
        UserError: the record is damaged.
    """
    if record is None:
        return None
    try:
        if isinstance(record, np.ndarray) and record.dtype == np.uint8:
            record = record.tobytes()
        if not isinstance(record, (str, bytes)):
            raise ValueError(type(record).__name__)
        return Categories.from_json(record)
    except ValueError as error:
        raise UserError(f"{file} has a damaged record of its class names; copy or download it again") from error


def _check_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Check the arrays of a file of any format.

    Raises:
        UserError: there are no tensors, a name is not printable, elements are not real numbers, or there are far more
            of them than fit into the file.
    """
    if not arrays:
        raise UserError(f"{file} holds no tensors; is it a weight file?")
    for name, array in arrays.items():
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise UserError(
                f"{file}: {brief(name)} is not a valid name of a tensor; the file is damaged, copy it again"
            )
        if array.dtype.kind not in "biuf":
            raise UserError(f"{file}: '{name}' has elements of type {array.dtype}, weights are real numbers")
    check_total(file, arrays.values())


def array_fingerprint(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the CRC-32 of names and contents, which shows whether two files belong together."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).data, value)
    return value


def write_state(arrays: Mapping[str, np.ndarray], stem: str | Path, categories: Categories | None = None) -> None:
    """Write ``<stem>.pdparams`` (which ``paddle.load`` can read) and its twin ``<stem>.safetensors``.

    At most one array is copied at a time, whether the arrays are in memory or mapped from a file.

    Args:
        arrays: the arrays by parameter name.
        stem: path without extension.
        categories: the classes that the model was trained for, if they are known.

    Raises:
        UserError: a file cannot be written; existing files of the same names are preserved.
    """
    with atomic_files([f"{stem}.pdparams", f"{stem}.safetensors"]) as (pickled, twin):
        dump_state(arrays, pickled, twin, categories)


def dump_state(
    arrays: Mapping[str, np.ndarray], pickled: Path, twin: Path | None, categories: Categories | None = None
) -> None:
    """Write the files of `write_state` (or only the first) to given paths; the caller gives them their final names."""
    with open(pickled, "wb") as stream:
        pickler = pickle.Pickler(stream, protocol=4)
        pickler.fast = True  # the memo would keep a copy of every array until the end
        record = {} if categories is None else {CLASS_RECORD: np.frombuffer(categories.to_json().encode(), np.uint8)}
        pickler.dump({**arrays, **record, NAME_TABLE: {name: name for name in arrays}})
    if twin is not None:
        with open(twin, "wb") as stream:
            write_safetensors(arrays, stream, categories)


def write_safetensors(
    arrays: Mapping[str, np.ndarray], stream: IO[bytes], categories: Categories | None = None
) -> None:
    """Write the safetensors format: the length of the header, the header in JSON, and the arrays in little endian."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # large elements first: all aligned
    metadata = {} if categories is None else {CLASS_METADATA: categories.to_json()}
    header: dict[str, Any] = {"__metadata__": {"format": "np", **metadata}}
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
