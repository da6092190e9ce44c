"""The pickle inside a PyTorch checkpoint, which describes the tensors as views of storages.

PyTorch's functions for tensors are replaced by passive records, and all other names by passive placeholders, because
training logs and options may contain objects of any library that are not needed.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ppdet.checkpoint.formats.inert_pickle import Function, InertUnpickler
from ppdet.checkpoint.formats.pickle_limits import MAX_DIMENSIONS, Refused

__all__ = ["Foreign", "PthUnpickler", "Storage", "TensorView"]

_ELEMENTS = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "UntypedStorage": "u1",
}
_MAX_NAMES = 4096
"""Maximum number of names of other libraries in a checkpoint; each of them costs a class."""
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")


class Foreign:
    """A placeholder for an object of an unknown class; all operations of a pickle on it have no effect."""

    __slots__ = ()
    path = "an unknown name"

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Foreign:
        return self

    def append(self, value: Any) -> None:
        """Ignore an element of a list."""

    def extend(self, values: Any) -> None:
        """Ignore elements of a list."""

    def add(self, value: Any) -> None:
        """Ignore an element of a set."""


class _Record:
    """Base class of the records that describe tensors; a pickle cannot modify them."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise Refused("an attribute of a tensor")


class _StorageClass(_Record):
    """One of PyTorch's storage classes."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Storage(_Record):
    """A block of elements in the file.

    Attributes:
        key: name of the block.
        element: NumPy's code of the element type, ``bf16`` for bfloat16, or the name of an unknown class.
        count: number of elements.
        offset: index of the first element in the block.
    """

    __slots__ = ("key", "element", "count", "offset")

    def __init__(self, key: str, element: str, count: int, offset: int) -> None:
        self.key, self.element, self.count, self.offset = key, element, count, offset


class TensorView(_Record):
    """A view of a storage: offset, shape and strides in elements."""

    __slots__ = ("storage", "offset", "shape", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(value) is int for value in values):
        raise Refused("a tensor whose shape is not made of integers")
    if len(values) > MAX_DIMENSIONS or not all(-(1 << 63) <= value < 1 << 63 for value in values):
        raise Refused("a tensor of an impossible shape")
    return tuple(values)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorView:
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise Refused("a tensor without a storage")
    return TensorView(storage, offset, _integers(shape), _integers(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _size(values: Any = ()) -> tuple[int, ...]:
    return _integers(values)


class PthUnpickler(InertUnpickler):
    """Converts tensors to `TensorView` records and unknown objects to `Foreign` placeholders.

    Attributes:
        elements: element types of the storages read so far, by key.
    """

    def __init__(self, stream: Any, limit: int, size: int | None = None) -> None:
        super().__init__(stream, limit, size)
        self._foreign: dict[str, type[Foreign]] = {}
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): Function(self.keys.ordered_dict),
            ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
            ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
            ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
            ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
            ("torch", "Size"): Function(_size),
        }
        self.elements: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a name, a placeholder if the name is unknown."""
        if (module, name) in self._known:
            return self._known[module, name]
        if module in _STORAGE_MODULES and name.endswith("Storage"):
            return _StorageClass(name)
        path = f"{module}.{name}"
        if path not in self._foreign:
            if len(self._foreign) == _MAX_NAMES:
                raise Refused("thousands of classes")
            self._foreign[path] = type("Foreign", (Foreign,), {"path": path, "__slots__": ()})
        return self._foreign[path]

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that ``('storage', class, key, device, count[, view])`` describes.

        Raises:
            Refused: the id is something else.
        """
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageClass):
            raise Refused("an object other than a storage is kept outside of the pickle")
        if not isinstance(pid[2], (str, int)) or type(pid[4]) is not int:
            raise Refused("a storage without key or size")
        key, count, offset = str(pid[2]), pid[4], 0
        element = _ELEMENTS.get(pid[1].name, pid[1].name)
        if self.elements.setdefault(key, element) != element:
            raise Refused(f"storage {key!r} has two element types")
        if len(pid) > 5 and pid[5] is not None:  # (key of the view, offset, count): a part of the storage
            offset, count = _integers(pid[5][1:])
        return Storage(key, element, count, offset)
