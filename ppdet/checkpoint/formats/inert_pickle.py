"""The unpickler that both readers of pickled checkpoints share, which is safe on untrusted files.

Importing arbitrary names (which each reader prevents itself) is not the only danger of a pickle. A memo index of two
billion makes the C unpickler allocate as many slots, a length field of exabytes as many bytes, and tuples nested in
dictionary keys take practically forever to hash. This unpickler is based on the one written in Python, which keeps the
memo in a dictionary, and adds the checks below. It is slower per instruction, but checkpoints only contain a few
thousand.

Three quantities are limited by the size of the file. Copies made by calls: a megabyte that occurs once may be copied a
thousand times by instructions of six bytes each. Instructions: a single byte, or a single bit of a compressed file,
creates an empty set of two hundred bytes. Keys with a predictable hash: a dictionary whose keys all have the same hash
takes quadratic time.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from deploy.common.printable import one_line
from ppdet.checkpoint.formats.pickle_limits import (
    BYTES_PER_INSTRUCTION,
    FREE_COPIES,
    FREE_INSTRUCTIONS,
    LONGEST_INTEGER,
    LONGEST_LINE,
    Budget,
    Keys,
    Refused,
)

__all__ = ["Function", "InertUnpickler", "remaining"]


class Function:
    """A callable whose attributes a pickle cannot set (BUILD would permanently modify a plain function)."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("an attribute of a function")


def remaining(stream: Any) -> int:
    """Return the number of bytes from the current position to the end of a seekable stream."""
    position = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(position)
    return int(end - position)


class _Bounded:
    """A limited part of a stream; requests for more bytes than it has fail before memory is allocated."""

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
        """Return a line including its end."""
        line: bytes = self._stream.readline(min(self._left, LONGEST_LINE))
        if not line.endswith(b"\n"):
            raise EOFError("a line without an end")
        return self._take(line, 0)


class _Counted(dict[int, Callable[[Any], None]]):
    """The implementations of instructions by code. Lookups are counted, as there is one for each instruction."""

    def __init__(self, instructions: dict[int, Callable[[Any], None]], limit: int) -> None:
        super().__init__(instructions)
        self._left = limit

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            raise Refused("more instructions than a checkpoint of its size has")
        return super().__getitem__(code)


def _keys_checked(load: Callable[..., None], start: int, step: int) -> Callable[[Any], None]:
    """Wrap an instruction that hashes the objects ``stack[start::step]``."""

    def checked(unpickler: Any) -> None:
        for key in unpickler.stack[start::step]:
            unpickler.keys.check(key)
        load(unpickler)

    return checked


def _copies_counted(load: Callable[..., None]) -> Callable[[Any], None]:
    """Wrap an instruction that calls a function; its result counts as a copy."""

    def counted(unpickler: Any) -> None:
        load(unpickler)
        result = unpickler.stack[-1]
        if isinstance(result, (tuple, bytes, dict)):
            unpickler.copies.take(len(result))

    return counted


def _load_bytearray(unpickler: Any) -> None:
    """BYTEARRAY8, which Python's unpickler allocates before checking the length of the file."""
    (size,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(size)))


def _load_decimal(unpickler: Any) -> None:
    """INT and LONG: a line with an integer; ``00`` and ``01`` are false and true."""
    line = unpickler.readline()[:-1]
    if len(line) > LONGEST_INTEGER:
        raise Refused(f"an integer of {len(line)} digits")
    unpickler.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L"), 0))


def _load_long(unpickler: Any) -> None:
    """LONG4: an integer, preceded by its number of bytes."""
    (size,) = struct.unpack("<i", unpickler.read(4))
    if not 0 <= size <= LONGEST_INTEGER:
        raise Refused(f"an integer of {size} bytes")
    unpickler.append(int.from_bytes(unpickler.read(size), "little", signed=True))


class InertUnpickler(pickle._Unpickler):
    """An unpickler that never imports anything; subclasses define what names are replaced by.

    Args:
        stream: is read up to the end of the pickle.
        limit: maximum number of bytes to read; by default the rest of the stream, which then has to be seekable.
        size: size of the file, from which all limits are derived; ``limit`` unless the pickle is compressed.

    Attributes:
        copies: number of elements and bytes that calls may still copy.
        keys: checks keys before they are hashed.
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
        pickle.BYTEARRAY8[0]: _load_bytearray,
        pickle.INT[0]: _load_decimal,
        pickle.LONG[0]: _load_decimal,
        pickle.LONG4[0]: _load_long,
    }

    def __init__(self, stream: Any, limit: int | None = None, size: int | None = None) -> None:
        limit = remaining(stream) if limit is None else limit
        size = limit if size is None else size
        # One copy as bytes, and one copy into another byte order.
        self.copies = Budget(2 * size + FREE_COPIES, "many copies of one part of the file")
        self.keys = Keys()
        bounded: Any = _Bounded(stream, limit)
        super().__init__(bounded, encoding="latin1")
        instructions = FREE_INSTRUCTIONS + size // BYTES_PER_INSTRUCTION
        self.dispatch = _Counted(type(self).dispatch, instructions)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """Refuse a name.

        Raises:
            Refused: always.
        """
        raise Refused(f"{module}.{name}")

    def get_extension(self, code: int) -> NoReturn:
        """Refuse a registered class, which Python would take from a cache without calling `find_class`.

        Raises:
            Refused: always.
        """
        raise Refused(f"extension {code}")

    def load(self) -> Any:
        """Read one pickle.

        Raises:
            pickle.UnpicklingError: the pickle is damaged or was refused; nothing in it was executed.
        """
        try:
            return super().load()
        except pickle.UnpicklingError:
            raise
        except KeyError as error:
            # the code of an instruction, or a memo index
            code = error.args[0] if error.args else None
            reason = f"no pickle has the instruction {code}" if isinstance(code, int) else f"it lacks {code!r}"
            raise pickle.UnpicklingError(one_line(reason, 200)) from error
        except (EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError, AssertionError) as error:
            # damaged files cause any of these
            raise pickle.UnpicklingError(one_line(error, 200)) from error
        except (ArithmeticError, struct.error) as error:
            raise pickle.UnpicklingError(one_line(error, 200)) from error
        except (MemoryError, RecursionError) as error:
            raise pickle.UnpicklingError(f"{type(error).__name__}: sizes in the file are inconsistent") from error
