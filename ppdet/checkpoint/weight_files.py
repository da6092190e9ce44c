"""Weight files: finding, reading and writing them.

A file is ``.pdparams`` (Paddle's pickle), ``.safetensors`` or PyTorch's ``.pth``, read by `ppdet.checkpoint.formats`.
Its content is a flat dictionary of parameter names and arrays, and the classes that the weights tell apart, in JSON:
``.safetensors`` has them as metadata, ``.pdparams`` as an array of bytes of no parameter.
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
"""A message names this many checkpoints of a folder."""
CLASS_METADATA = "categories"
"""Entry of a ``.safetensors`` file's metadata."""


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
    if given.suffix in _SUFFIXES:
        if given.is_file():
            return given
        if given.is_dir():
            raise UserError(_about_folder(given))
        raise UserError(f"weights {given} do not exist; check the path")
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
    if given.is_dir():
        raise UserError(_about_folder(given))
    near = " or ".join(f"weights={name}" for name in close_names(given.name)) if given.name == str(given) else ""
    zoo = f", or a name of the zoo: {near}" if near else ""
    raise UserError(
        f"weights {given}.pdparams do not exist; give the path of a checkpoint, with or without .pdparams, such as "
        f"-o weights=output/NAME/best_model{zoo}"
    )


def _about_folder(folder: Path) -> str:
    """Say which checkpoints are in a folder that was given instead of one: the best, the last, then the newest."""
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
    """What a weight file holds.

    Attributes:
        path: the file.
        arrays: by parameter name.
        categories: the classes that the weights tell apart, None where the file does not say.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    categories: Categories | None = None


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a weight file (with or without extension) by parameter name; see `read_weights`."""
    return read_weights(path).arrays


def read_weights(path: str | Path) -> WeightFile:
    """Read a weight file, named with or without extension.

    Raises:
        UserError: the file is missing, damaged, no weight file, or wants to run code.
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
    """Read a file's record of its classes: text, an array of bytes, or None where there is none.

    Raises:
        UserError: it is something else.
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


def write_state(arrays: Mapping[str, np.ndarray], stem: str | Path, categories: Categories | None = None) -> None:
    """Write ``<stem>.pdparams`` (which ``paddle.load`` reads, too) and its twin ``<stem>.safetensors``.

    No more than one array is copied at a time, whether in memory or mapped from a file.

    Args:
        arrays: by parameter name.
        stem: path without extension.
        categories: the classes that the weights tell apart, if they are known.

    Raises:
        UserError: a file cannot be written; older files under those names stay whole.
    """
    with atomic_files([f"{stem}.pdparams", f"{stem}.safetensors"]) as (pickled, twin):
        dump_state(arrays, pickled, twin, categories)


def dump_state(
    arrays: Mapping[str, np.ndarray], pickled: Path, twin: Path | None, categories: Categories | None = None
) -> None:
    """Write the files of `write_state`, or the first alone, under any names, for a caller that gives the final ones."""
    with open(pickled, "wb") as stream:
        pickler = pickle.Pickler(stream, protocol=4)
        pickler.fast = True  # the memo would keep a copy of every array to the end
        record = {} if categories is None else {CLASS_RECORD: np.frombuffer(categories.to_json().encode(), np.uint8)}
        pickler.dump({**arrays, **record, NAME_TABLE: {name: name for name in arrays}})
    if twin is not None:
        with open(twin, "wb") as stream:
            write_safetensors(arrays, stream, categories)


def write_safetensors(
    arrays: Mapping[str, np.ndarray], stream: IO[bytes], categories: Categories | None = None
) -> None:
    """Write the safetensors format: length of the header, header in JSON, blocks in little-endian order."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # large elements first: all aligned
    about = {} if categories is None else {CLASS_METADATA: categories.to_json()}
    header: dict[str, Any] = {"__metadata__": {"format": "np", **about}}
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
