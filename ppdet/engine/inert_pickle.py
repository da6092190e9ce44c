"""The part that both readers of pickled checkpoints share: an unpickler that a file cannot turn against its user.

Beyond looking up names (which each reader decides for itself) a pickle has other means: a memo index of two thousand
million makes the C unpickler allocate as many slots, a length field of exabytes as many bytes, and tuples nested in
dictionary keys take for ever to hash. Python's own unpickler in Python keeps its memo in a dictionary, and the
checks below do the rest. It is slower for each instruction, of which a checkpoint has a few thousand.

What a call copies out of the file is counted, too: a megabyte that a file names once may be copied a thousand times by
instructions of six bytes each.
"""

from __future__ import annotations

import pickle
import reprlib
import struct
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["Budget", "Function", "InertUnpickler", "Refused", "brief", "one_line", "ordered_dict", "remaining"]

LONGEST_LINE = 1 << 20
MOST_DIMENSIONS = 32
"""Of an array; NumPy 1 has no more."""
FREE_COPIES = 1 << 20
"""Elements that calls may copy in a file of any size."""


def one_line(text: object) -> str:
    """Return what a file made us say as one printable line of at most 200 characters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(text)[:400])
    return " ".join(plain.split())[:200] or type(text).__name__


def brief(value: object) -> str:
    """Return a text for a value from a file that takes no longer to make than it is long, however it is nested."""
    return reprlib.repr(value)


class Refused(pickle.UnpicklingError):
    """The file wants something that a checkpoint has no need of, or contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


class Budget:
    """How much may still be copied; an honest file has each element of its containers in it once.

    Args:
        amount: elements or bytes.
    """

    def __init__(self, amount: int) -> None:
        self._left = amount

    def take(self, amount: int) -> None:
        """Use some.

        Raises:
            Refused: more than is left.
        """
        self._left -= amount
        if self._left < 0:
            raise Refused("many copies of one part of the file")


class Function:
    """A callable of ours whose attributes a pickle cannot set (BUILD would change a plain function for good)."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("an attribute of a function")


def _check_key(key: object) -> None:
    """Refuse a key whose hash may take exponential time."""
    if isinstance(key, tuple) and (len(key) > 64 or any(isinstance(part, (tuple, frozenset)) for part in key)):
        raise Refused("a dictionary key made of nested tuples")
    if isinstance(key, frozenset):
        raise Refused("a set as a dictionary key")


class _OrderedDict(dict):
    """A dictionary without attributes: PyTorch sets ``_metadata``, a hostile file would set ``items``."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


def ordered_dict(*args: Any) -> dict[Any, Any]:
    """Stand for ``collections.OrderedDict``, which Python 2 pickles with its items as the argument."""
    pairs = args[0] if args else ()
    if len(args) > 1 or not isinstance(pairs, (list, tuple)) or any(len(pair) != 2 for pair in pairs):
        raise Refused("an ordered dictionary in an unknown layout")
    for pair in pairs:
        _check_key(pair[0])
    return _OrderedDict(pairs)


def remaining(stream: Any) -> int:
    """Number of bytes from here to the end of a seekable stream."""
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    return int(end - here)


class _Bounded:
    """The part of a stream that a pickle may be in; asking for more than there is fails before memory is taken."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def _take(self, data: bytes, expected: int) -> bytes:
        if len(data) < expected:
            raise EOFError("it ends too early")
        self._left -= len(data)
        return data

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes."""
        if count > self._left:
            raise EOFError("it ends too early")
        return self._take(self._stream.read(count), count)

    def readinto(self, target: bytearray) -> int:
        """Fill ``target``."""
        target[:] = self.read(len(target))
        return len(target)

    def readline(self) -> bytes:
        """Return a line with its end."""
        line: bytes = self._stream.readline(min(self._left, LONGEST_LINE))
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end")
        return self._take(line, 0)


def _keys_checked(load: Callable[..., None], start: int, step: int) -> Callable[[Any], None]:
    """Wrap an instruction that hashes objects of the stack, ``start`` and ``step`` saying which."""

    def checked(unpickler: Any) -> None:
        for key in unpickler.stack[start::step]:
            _check_key(key)
        load(unpickler)

    return checked


def _copies_counted(load: Callable[..., None]) -> Callable[[Any], None]:
    """Wrap an instruction that calls something, whose result counts as a copy."""

    def counted(unpickler: Any) -> None:
        load(unpickler)
        made = unpickler.stack[-1]
        if isinstance(made, (tuple, bytes, dict)):
            unpickler.copies.take(len(made))

    return counted


class InertUnpickler(pickle._Unpickler):
    """An unpickler that imports nothing by itself; subclasses say what a name stands for.

    Args:
        stream: read exactly up to the end of the pickle.
        limit: no more bytes than these are read; by default what is left of the (then seekable) stream.

    Attributes:
        copies: what calls may still copy.
    """

    dispatch = {
        **pickle._Unpickler.dispatch,
        **{
            code[0]: _keys_checked(pickle._Unpickler.dispatch[code[0]], start, step)
            for code, start, step in (
                (pickle.SETITEM, -2, 2),
                (pickle.SETITEMS, 0, 2),
                (pickle.DICT, 0, 2),
                (pickle.ADDITEMS, 0, 1),
                (pickle.FROZENSET, 0, 1),
            )
        },
        **{
            code[0]: _copies_counted(pickle._Unpickler.dispatch[code[0]])
            for code in (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ)
        },
    }

    def __init__(self, stream: Any, limit: int | None = None) -> None:
        size = remaining(stream) if limit is None else limit
        self.copies = Budget(2 * size + FREE_COPIES)  # once as bytes, once into another byte order
        bounded: Any = _Bounded(stream, size)
        super().__init__(bounded, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Refuse a name.

        Raises:
            Refused: always.
        """
        raise Refused(f"{module}.{name}")

    def get_extension(self, code: int) -> NoReturn:
        """Refuse a registered class: it would be taken from Python's cache without `find_class`.

        Raises:
            Refused: always.
        """
        raise Refused(f"extension {code}")

    def load(self) -> Any:
        """Read one pickle.

        Raises:
            pickle.UnpicklingError: it is broken or was refused; nothing of it was executed.
        """
        try:
            return super().load()
        except pickle.UnpicklingError:
            raise
        except (EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError, AssertionError) as error:
            # Broken bytes show as any of these.
            raise pickle.UnpicklingError(one_line(error)) from error
        except (ArithmeticError, struct.error) as error:
            raise pickle.UnpicklingError(one_line(error)) from error
        except (MemoryError, RecursionError) as error:
            raise pickle.UnpicklingError(f"{type(error).__name__}: sizes in the file make no sense") from error
