"""Reading PyTorch's checkpoints without PyTorch and without executing anything that they contain.

There are two formats: a zip archive (``data.pkl`` and one file per storage) and the stream of PyTorch before 1.6 (five
pickles, followed by the storages). `ppdet.checkpoint.formats.pth_pickle` defines what a pickle may contain. Objects of
unknown classes are refused among the weights and ignored elsewhere (training logs, options).

Arrays are views of the memory-mapped file, so a checkpoint of any size is read in the memory of a single tensor. The
checksum of each storage of an archive is verified before its tensors are used.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy.common.printable import one_line
from ppdet.checkpoint.formats.pickle_limits import FREE_BYTES, PACKING, Refused
from ppdet.checkpoint.formats.pth_pickle import PthUnpickler, TensorView
from ppdet.checkpoint.formats.pth_storages import Storages
from ppdet.utils.errors import UserError

__all__ = ["read_checkpoint", "read_pth"]

_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE = 1 << 28
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "ema", "module")
_MAX_CLASSES = 10_000
"""Longer lists of class names are ignored."""


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse malicious archives.

    Raises:
        Refused: a name is duplicate or leads out of the archive, an entry is encrypted, or the content is far larger
            than the archive.
    """
    names: set[str] = set()
    for info in entries:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
            raise Refused(f"its entry {name!r} leads out of the archive")
        if name in names:
            raise Refused(f"its entry {name!r} occurs twice")
        if info.flag_bits & 1:
            raise Refused(f"its entry {name!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"its entry {name!r} is compressed in an unusual way")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise Refused(f"its entry {name!r} has two sizes")
        names.add(name)
    unpacked = sum(info.file_size for info in entries if info.compress_type != zipfile.ZIP_STORED)
    if unpacked > max(PACKING * path.stat().st_size, FREE_BYTES):
        raise Refused(f"it would unpack to {unpacked} bytes, beyond all proportion")


def _stored_at(raw: Any, info: zipfile.ZipInfo) -> int:
    """Return the position of the content of an uncompressed entry."""
    raw.seek(info.header_offset)
    header = raw.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Refused("its directory does not fit its contents")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return int(info.header_offset) + 30 + names


def _archive(path: Path) -> tuple[Any, Storages]:
    """Read the pickle of a zip archive and find its storages."""
    file = Storages(path)
    with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        entries = archive.infolist()
        _check_entries(path, entries)
        pickles = [info for info in entries if info.filename.rsplit("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise Refused("an archive, but not one of PyTorch (it has no data.pkl)")
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise Refused("its pickle is too large for a checkpoint")
        root = pickles[0].filename[: -len("data.pkl")]
        for info in entries:
            if info.filename == root + "byteorder":
                with archive.open(info) as text:
                    order = text.read(16).decode("ascii", "replace").strip()
                if order not in ("little", "big"):
                    raise Refused(f"byte order {order!r}")
                file.order = "<" if order == "little" else ">"
            elif info.filename.startswith(root + "data/"):
                key = info.filename[len(root) + len("data/") :]
                if info.compress_type == zipfile.ZIP_STORED:
                    file.places[key] = (_stored_at(raw, info), info.file_size)
                    file.checksums[key] = info.CRC
                else:
                    file.packed[key] = archive.read(info)
        with archive.open(pickles[0]) as stream:
            content = PthUnpickler(stream, pickles[0].file_size, path.stat().st_size).load()
            while stream.read(1 << 20):  # until the end, where the checksum of the archive is verified
                pass
        return content, file


def _stream(path: Path) -> tuple[Any, Storages]:
    """Read the pickles of a legacy stream and find the storages behind them."""
    size = path.stat().st_size
    limit = min(size, _LARGEST_PICKLE)
    with open(path, "rb") as raw:
        if PthUnpickler(raw, limit).load() != _MAGIC:
            raise Refused("a pickle, but not one of PyTorch")
        PthUnpickler(raw, limit).load()  # version of the format
        system = PthUnpickler(raw, limit).load()
        if not isinstance(system, dict):
            raise Refused("its byte order is missing")
        order: Literal["little", "big"] = "little" if system.get("little_endian", True) else "big"
        reader = PthUnpickler(raw, limit)
        content = reader.load()
        keys = PthUnpickler(raw, limit).load()
        file = Storages(path, order="<" if order == "little" else ">")
        if not isinstance(keys, list):
            raise Refused("it has no list of storages")
        for key in map(str, keys):
            count = int.from_bytes(raw.read(8), order)
            element = reader.elements.get(key)
            if element is None:
                raise Refused(f"storage {key!r} belongs to no tensor")
            if element.endswith("Storage"):
                raise Refused(f"element type {element} is not supported: convert the tensor to float32")
            length = count * (2 if element == "bf16" else np.dtype(element).itemsize)
            file.places[key] = (raw.tell(), length)
            if raw.tell() + length > size:
                raise Refused("it ends in the middle of a tensor")
            raw.seek(length, 1)
        return content, file


def _weights(content: Any, depth: int = 2) -> Mapping[Any, Any] | None:
    """Return the state dictionary, at the top level or nested under a common name; None if there is none."""
    if not isinstance(content, dict):
        return None
    if depth:
        for key in _STATE_KEYS:
            weights = _weights(content.get(key), depth - 1)
            if weights is not None:
                return weights
    return content if any(isinstance(value, TensorView) for value in content.values()) else None


def _arrays(file: Path, content: Any, storages: Storages) -> dict[str, np.ndarray]:
    """Convert the weights to arrays.

    Raises:
        Refused, UserError: there are no weights, or one of them is not a tensor or does not fit its storage.
    """
    if not isinstance(content, dict):
        raise Refused(f"it holds {getattr(content, 'path', type(content).__name__)}, not a dictionary")
    weights = _weights(content)
    if weights is None:
        for key in _STATE_KEYS:  # there are no tensors: the message names what there is instead
            if isinstance(content.get(key), dict) and content[key]:
                weights = content[key]
                break
        else:
            raise Refused("it holds no state_dict")
    storages.verify(value.storage.key for value in weights.values() if isinstance(value, TensorView))
    arrays: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, TensorView):
            what = getattr(value, "path", type(value).__name__)
            label = one_line(name) if isinstance(name, str) else f"a key of type {type(name).__name__}"
            raise UserError(
                f"{file}: '{label}' among the weights is {one_line(what)}, not a tensor; refused, and nothing "
                "in it was executed"
            )
        if not name.isprintable():
            raise Refused(f"the name {name!r}")
        arrays[name] = storages.array(value)
    return arrays


def _class_names(content: Any) -> tuple[str, ...] | None:
    """Return the class names that mmdetection 2.x and 3.x store in addition to the weights, None if there are none."""
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return None
    dataset_meta = meta.get("dataset_meta")
    for holder in (dataset_meta if isinstance(dataset_meta, dict) else {}, meta):
        for key in ("classes", "CLASSES"):
            names = holder.get(key)
            if isinstance(names, (list, tuple)) and 0 < len(names) <= _MAX_CLASSES:
                return tuple(names) if all(isinstance(name, str) for name in names) else None
    return None


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """Return the weights of a PyTorch checkpoint, see `read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], tuple[str, ...] | None]:
    """Read the weights and, if available, the class names of a PyTorch checkpoint.

    Args:
        path: a ``.pth`` file, zip archive or legacy stream, with the weights at the top level or under
            ``state_dict``, ``model_state_dict``, ``model``, ``ema`` or ``module`` (in this order).

    Returns:
        Read-only arrays by name in the order of the file, backed by the file (bfloat16 is converted to float32), and
        the class names under ``meta`` as mmdetection writes them, or None.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint, or its weights contain something other than
            tensors; nothing in it was executed.
    """
    file = Path(path).expanduser()
    try:
        with open(file, "rb") as stream:
            start = stream.read(4)
        if start[:1] == b"\x80":
            content, storages = _stream(file)
        elif start == b"PK\x03\x04":
            content, storages = _archive(file)
        else:
            raise Refused("neither an archive nor a pickle")
        return _arrays(file, content, storages), _class_names(content)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {file}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} is not a PyTorch checkpoint, or it is damaged: {one_line(error, 200)}; download it again"
        ) from error
    except (MemoryError, OverflowError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{file}: {type(error).__name__}: sizes in the file are inconsistent; download it again"
        ) from error
