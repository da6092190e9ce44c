"""Reading PyTorch's checkpoints without PyTorch and without trusting them.

Two formats: a zip archive (``data.pkl`` beside one file for each storage) and the stream of PyTorch before 1.6 (five
pickles, then the storages). Either way a pickle says which parts of which storages make up a tensor. The reader runs
nothing of it: names of PyTorch's own tensor machinery become inert records, every other name an inert placeholder. A
placeholder among the weights is refused by name; elsewhere (training logs, options) it is ignored.

Arrays are views of the memory-mapped file: a checkpoint of any size is read in the memory that one tensor takes.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppdet.utils.errors import UserError

__all__ = ["read_pth"]

_MAGIC = 0x1950A86A20F9469CFC6C
_LARGEST_PICKLE = 1 << 28
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Broken(Exception):
    """The file contradicts itself."""


class _Foreign:
    """Stands for an object of a class that this reader does not know; whatever a pickle does to it, nothing happens."""

    path = "an unknown name"

    def __new__(cls, *args: Any, **kwargs: Any) -> _Foreign:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Foreign:
        return self

    def append(self, value: Any) -> None:
        """Ignore an element of a list."""

    def extend(self, values: Any) -> None:
        """Ignore elements of a list."""

    def add(self, value: Any) -> None:
        """Ignore an element of a set."""


@dataclass(frozen=True)
class _StorageKind:
    """An element type by PyTorch's name for it."""

    name: str


@dataclass
class _Storage:
    """A block of numbers of the file, ``offset`` elements into the block called ``key``."""

    kind: str
    key: str
    count: int
    offset: int = 0


@dataclass
class _Tensor:
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class _File:
    """Where the storages of a checkpoint lie.

    Attributes:
        path: the file.
        places: first byte and number of bytes by storage key.
        order: byte order, as NumPy writes it.
        packed: storages of an archive that compresses them.
    """

    path: Path
    places: dict[str, tuple[int, int]]
    order: str
    packed: dict[str, bytes] = field(default_factory=dict)

    def flat(self, storage: _Storage) -> np.ndarray:
        """Return all elements of a storage, read when they are looked at."""
        dtype = np.dtype(self.order + storage.kind)
        if storage.key in self.packed:
            block = np.frombuffer(self.packed[storage.key], np.uint8)
        elif storage.key in self.places:
            start, size = self.places[storage.key]
            empty = size == 0
            block = np.zeros(0, np.uint8) if empty else np.memmap(self.path, np.uint8, "r", start, (size,))
        else:
            raise _Broken(f"storage {storage.key!r} is missing")
        first, last = storage.offset * dtype.itemsize, (storage.offset + storage.count) * dtype.itemsize
        if first < 0 or storage.count < 0 or last > block.size:
            raise _Broken(f"storage {storage.key!r} is shorter than it should be")
        return block[first:last].view(dtype)

    def array(self, tensor: _Tensor) -> np.ndarray:
        """Return a tensor's elements; bfloat16 as float32."""
        flat = self.flat(tensor.storage)
        if len(tensor.shape) != len(tensor.strides) or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
            raise _Broken(f"a tensor of shape {tensor.shape} with strides {tensor.strides}")
        if 0 in tensor.shape:
            view = np.zeros(tensor.shape, flat.dtype)
        else:
            last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides))
            if last >= flat.size:
                raise _Broken(f"a tensor of shape {tensor.shape} reaches beyond its storage")
            strides = [step * flat.itemsize for step in tensor.strides]
            view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        if tensor.storage.kind == "u2":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view if view.dtype.isnative else view.astype(view.dtype.newbyteorder("="))


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(value) is int for value in values):
        raise _Broken("a tensor whose shape is not made of integers")
    return tuple(values)


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or type(offset) is not int:
        raise _Broken("a tensor without a storage")
    return _Tensor(storage, offset, _integers(shape), _integers(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing.

    Attributes:
        kinds: element type of each storage met so far.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")
        self._foreign: dict[str, type[_Foreign]] = {}
        self.kinds: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the record that stands for a name, a placeholder where the name is unknown."""
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        if module in ("torch", "torch.storage", "torch.cuda") and name.endswith("Storage"):
            return _StorageKind(name)
        if module == "torch" and name == "Size":
            return tuple
        path = f"{module}.{name}"
        return self._foreign.setdefault(path, type("_Foreign", (_Foreign,), {"path": path}))

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that ``('storage', kind, key, device, count[, view])`` means."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageKind):
            raise _Broken("an object that is no storage is kept outside of the pickle")
        kind = _STORAGES.get(pid[1].name)
        if kind is None:
            raise _Broken(f"element type {pid[1].name} is not known")
        if type(pid[4]) is not int:
            raise _Broken("a storage whose size is not an integer")
        storage = _Storage(kind, str(pid[2]), pid[4])
        self.kinds[storage.key] = kind
        if len(pid) > 5 and pid[5] is not None:  # (key, offset, count): the storage is a part of another one
            _, storage.offset, storage.count = str(pid[5][0]), *_integers(pid[5][1:])
        return storage


def _archive(path: Path) -> tuple[Any, _File]:
    """Read the pickle of a zip archive and find its storages."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        pickles = [info for info in archive.infolist() if info.filename.rsplit("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise _Broken("an archive, but not one of PyTorch (it has no data.pkl)")
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise _Broken("its pickle is larger than any checkpoint's")
        root = pickles[0].filename[: -len("data.pkl")]
        order = "little"
        file = _File(path, {}, "<")
        for info in archive.infolist():
            if info.filename == root + "byteorder" and info.file_size < 16:
                order = archive.read(info).decode("ascii", "replace").strip()
            if not info.filename.startswith(root + "data/"):
                continue
            key = info.filename[len(root) + len("data/") :]
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset)
                header = raw.read(30)
                if len(header) < 30 or header[:4] != b"PK\x03\x04":
                    raise _Broken("its directory does not fit its contents")
                names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                file.places[key] = (info.header_offset + 30 + names, info.file_size)
            elif info.file_size <= 2000 * max(info.compress_size, 1):
                file.packed[key] = archive.read(info)
            else:
                raise _Broken(f"{info.filename} is packed beyond reason")
        file.order = {"little": "<", "big": ">"}.get(order, "<")
        with archive.open(pickles[0]) as stream:
            return _Unpickler(stream).load(), file


def _stream(path: Path) -> tuple[Any, _File]:
    """Read the pickles of a legacy stream and find the storages behind them."""
    size = path.stat().st_size
    with open(path, "rb") as raw:
        if _Unpickler(raw).load() != _MAGIC:
            raise _Broken("a pickle, but not one of PyTorch")
        _Unpickler(raw).load()  # version of the format
        system = _Unpickler(raw).load()
        little = bool(system.get("little_endian", True)) if isinstance(system, Mapping) else sys.byteorder == "little"
        reader = _Unpickler(raw)
        content = reader.load()
        keys = _Unpickler(raw).load()
        file = _File(path, {}, "<" if little else ">")
        for key in keys if isinstance(keys, list) else ():
            count = int.from_bytes(raw.read(8), "little" if little else "big")
            if str(key) not in reader.kinds:
                raise _Broken(f"storage {key!r} belongs to no tensor")
            length = count * np.dtype(reader.kinds[str(key)]).itemsize
            file.places[str(key)] = (raw.tell(), length)
            if raw.tell() + length > size:
                raise _Broken("it ends in the middle of a tensor")
            raw.seek(length, 1)
        return content, file


def _weights(content: Any) -> Mapping[Any, Any]:
    """Return the state dictionary, nested or at the top."""
    if isinstance(content, dict):
        for key in _STATE_KEYS:
            if isinstance(content.get(key), dict):
                return dict(dict.items(content[key]))
        if any(isinstance(value, _Tensor) for value in dict.values(content)):
            return dict(dict.items(content))
    raise _Broken("it holds no state_dict")


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """Read the weights of a PyTorch checkpoint.

    Args:
        path: a ``.pth`` file, zip archive or legacy stream; the weights under ``state_dict`` or at the top.

    Returns:
        Read-only arrays by name, in the file's order, backed by the file. bfloat16 is float32.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or has something else than tensors among its weights;
            nothing of it was executed.
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
            raise _Broken("neither an archive nor a pickle")
        arrays: dict[str, np.ndarray] = {}
        for name, value in _weights(content).items():
            if not isinstance(name, str) or not isinstance(value, _Tensor):
                what = getattr(value, "path", type(value).__name__)
                raise UserError(
                    f"{file}: '{name}' among the weights is {what}, not a tensor; refused, nothing executed"
                )
            arrays[name] = storages.array(value)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {file}: {error.strerror or error}") from error
    except (_Broken, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no PyTorch checkpoint, or damaged: {error}; download it again") from error
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no PyTorch checkpoint, or damaged ({error}); download it again") from error
    except (MemoryError, RecursionError, OverflowError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{file}: {type(error).__name__}: sizes in the file make no sense; download it again"
        ) from error
    return arrays
