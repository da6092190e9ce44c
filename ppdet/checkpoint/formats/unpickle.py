"""Reading pickled checkpoints from untrusted files.

A pickle is a program: the standard unpickler imports and calls whatever the file names. This reader accepts a dozen
harmless names and refuses all others. It does not use NumPy's unpickling code either, which trusts its input: the
instructions of the file fill passive records, which are checked and converted to arrays afterwards.

Layouts that occur in ``.pdparams`` and ``.pdopt`` files: ``{name: ndarray}`` (Paddle 2.0, 2.2 and later) and
``{name: (tensor name, ndarray)}`` (Paddle 2.1), both with pickle protocols 2 to 5 and, in either, a dictionary
``StructuredToParameterName@@`` next to the tensors.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from deploy.common.printable import one_line
from ppdet.checkpoint.formats.inert_pickle import Function, InertUnpickler
from ppdet.checkpoint.formats.pickle_limits import MAX_DIMENSIONS, Budget, Refused, brief
from ppdet.utils.errors import UserError

__all__ = ["load_pickle", "restricted_load"]

_NUMERIC_KINDS = "biufc"
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


class _DType:
    """The description of an element type in the file: NumPy's code, such as ``f4``, and the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise Refused("a structured element type")
        self.order = "=" if state[1] == "|" else brief(state[1]).strip("'")

    def build(self) -> np.dtype[Any]:
        """Return the NumPy type; only numbers and booleans are accepted."""
        if not isinstance(self.code, str) or len(self.code) > 3:
            raise Refused(f"element type {brief(self.code)}")
        try:
            dtype: np.dtype[Any] = np.dtype(self.code)
            dtype = {"=": dtype, "<": dtype.newbyteorder("<"), ">": dtype.newbyteorder(">")}[self.order]
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"element type {brief(self.code)}") from error
        if dtype.kind not in _NUMERIC_KINDS:
            raise Refused(f"element type {brief(self.code)}")
        return dtype


class _Array:
    """The description of an array in the file: shape, element type, order, bytes."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: tuple[Any, Any, bool, Any] = ((0,), None, False, b"")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array in an unknown layout")
        self.parts = (state[1], state[2], bool(state[3]), state[4])

    def build(self, copies: Budget) -> np.ndarray:
        """Return the array, backed by the file's bytes.

        Args:
            copies: number of bytes that may still be copied, which other byte orders require.

        Raises:
            Refused: shape, type and number of bytes are inconsistent.
        """
        shape, dtype, fortran, data = self.parts
        if not isinstance(dtype, _DType) or not isinstance(data, (bytes, bytearray)):
            raise Refused("an array of Python objects")
        sides = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS
        if not sides or not all(isinstance(side, int) and 0 <= side < 1 << 63 for side in shape):
            raise Refused(f"an array of shape {brief(shape)}")
        flat = dtype.build()
        count = int(np.prod([int(side) for side in shape], dtype=object)) if shape else 1
        if count * flat.itemsize != len(data):
            raise Refused(f"an array of shape {shape} with {len(data)} bytes")
        array = np.frombuffer(data, dtype=flat).reshape(shape, order="F" if fortran else "C")
        if array.dtype.isnative:
            return array
        copies.take(array.nbytes)
        return array.astype(array.dtype.newbyteorder("="))


_NDARRAY = object()
"""Stands for the class ``numpy.ndarray``, which files only pass to ``_reconstruct``."""


def _reconstruct(*args: Any) -> _Array:
    if not args or args[0] is not _NDARRAY:
        raise Refused("an array of a class of its own")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.parts = (shape, dtype, order == "F", data)
    return array


def _scalar(dtype: Any, data: Any) -> _Array:
    return _from_buffer(data, dtype, (), "C")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # Protocol 2 stores bytes as latin-1 text; other codecs (some decompress archives) are not needed.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"codec {brief(encoding)}")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:
        raise Refused("bytes from a call")
    return b""


def _known_names() -> dict[tuple[str, str], Any]:
    """Return what the names that a checkpoint may use are replaced by; new objects for each file."""
    known: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): Function(lambda code, *flags: _DType(code)),
        ("_codecs", "encode"): Function(_encode),
    }
    for module in ("builtins", "__builtin__"):
        known[module, "tuple"] = tuple
        known[module, "bytes"] = Function(_bytes)
    for module in _ARRAY_MODULES:
        known[module, "_reconstruct"] = Function(_reconstruct)
        known[module, "_frombuffer"] = Function(_from_buffer)
        known[module, "scalar"] = Function(_scalar)
    return known


class _Unpickler(InertUnpickler):
    """Accepts only the names above."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._known = {**_known_names(), ("collections", "OrderedDict"): Function(self.keys.ordered_dict)}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a known name.

        Raises:
            Refused: the name is not known.
        """
        if (module, name) in self._known:
            return self._known[module, name]
        raise Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse persistent ids, which do not occur in Paddle's files."""
        raise Refused("an object kept outside of the pickle")


def _finish(value: Any, done: dict[int, Any], copies: Budget) -> Any:
    """Convert the records in plain containers to arrays (records without dimensions to numbers).

    Args:
        value: the result of unpickling.
        done: results by identity, so that an object that occurs in many places is converted once.
        copies: number of bytes that may still be copied.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in done:
        return done[id(value)]
    result: Any
    if isinstance(value, _Array):
        array = value.build(copies)
        result = array if array.ndim else array[()]
    elif isinstance(value, dict):
        result = {_key(key): _finish(item, done, copies) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        items = [_finish(item, done, copies) for item in value]
        result = items if isinstance(value, list) else tuple(items)
    else:
        raise Refused(f"a value of type {type(value).__name__}")
    done[id(value)] = result
    return result


def _key(key: Any) -> Any:
    if not isinstance(key, (str, int)):
        raise Refused(f"a key of type {type(key).__name__}")
    return key


def restricted_load(stream: Any) -> Any:
    """Read one pickle of arrays, numbers, texts and plain containers from a seekable binary stream.

    Raises:
        pickle.UnpicklingError: the pickle is damaged or contains anything else; nothing in it was executed.
    """
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    try:
        return _finish(content, {}, unpickler.copies)
    except (ValueError, TypeError, OverflowError) as error:
        raise pickle.UnpicklingError(str(error) or type(error).__name__) from error
    except (MemoryError, RecursionError) as error:
        raise pickle.UnpicklingError(f"{type(error).__name__}: sizes in the file are inconsistent") from error


def load_pickle(path: str | Path) -> Any:
    """Read a ``.pdparams`` or ``.pdopt`` file.

    Raises:
        UserError: the file is missing, damaged or contains code.
    """
    try:
        with open(path, "rb") as stream:
            return restricted_load(stream)
    except Refused as error:
        raise UserError(
            f"{path} is not a plain checkpoint: it contains {error}; refused, and nothing in it was executed"
        ) from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a checkpoint, or it is damaged ({one_line(error, 200)}); copy or download it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
