"""What a pickled checkpoint may claim: bounded by the size of its file, and checked before memory or time is spent.

An honest checkpoint has each of its numbers in it once, some fifty instructions for a tensor, and texts for keys.
"""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from deploy.common.printable import one_line
from ppdet.utils.errors import UserError

__all__ = ["Budget", "Keys", "Refused", "brief", "check_total"]

LONGEST_REASON = 200
LONGEST_LINE = 1 << 20
MOST_DIMENSIONS = 32
"""Of an array; NumPy 1 has no more."""
FREE_COPIES = 1 << 20
"""Elements that calls may copy in a file of any size."""
FREE_INSTRUCTIONS = 1 << 19
"""Instructions in a file of any size; a tensor takes about fifty of them."""
BYTES_PER_INSTRUCTION = 128
"""One instruction more for every so many bytes of the file."""
MOST_NUMBER_KEYS = 8192
"""Keys that are no texts, such as the parameter numbers of an optimizer; a tuple counts as eight."""
LARGEST_NUMBER_KEY = 1 << 60
"""Python's hash of an integer below this is the integer itself, so that no two of them share one."""
LONGEST_INTEGER = 1024
"""Bytes, or digits: larger ones take quadratic time to read or to print."""


PACKING = 16
"""Weights hardly compress; a file whose content is more than this many times its size is no honest one."""
FREE_BYTES = 1 << 24
"""Bytes, or elements of a tensor, that are never too many."""


def brief(value: object) -> str:
    """Return a text for a value from a file that takes no longer to make than it is long, however it is nested."""
    return reprlib.repr(value)


def check_total(file: Path, arrays: Iterable[np.ndarray]) -> None:
    """Check the size of all tensors that a file makes, which may name the same numbers over and over.

    Raises:
        UserError: it is out of all proportion to the file's.
    """
    total = sum(array.nbytes for array in arrays)
    if total > max(PACKING * file.stat().st_size, FREE_BYTES):
        raise UserError(f"{file} makes {total} bytes of tensors out of far fewer: it is no honest weight file")


class Refused(pickle.UnpicklingError):
    """The file wants something that a checkpoint has no need of, or contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason, LONGEST_REASON))


class Budget:
    """How much of something a file may still use.

    Args:
        amount: how much in all.
        reason: what is wrong with a file that wants more.
    """

    def __init__(self, amount: int, reason: str) -> None:
        self._left, self._reason = amount, reason

    def take(self, amount: int) -> None:
        """Use some.

        Raises:
            Refused: more than is left.
        """
        self._left -= amount
        if self._left < 0:
            raise Refused(self._reason)


class _OrderedDict(dict):
    """A dictionary without attributes: PyTorch sets ``_metadata``, a hostile file would set ``items``."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class Keys:
    """Looks at the keys of dictionaries and sets before they are hashed."""

    def __init__(self) -> None:
        self._numbers = Budget(MOST_NUMBER_KEYS, "thousands of keys that are no texts")

    def check(self, key: object) -> None:
        """Let a key through.

        Raises:
            Refused: its hash takes exponential time, or many keys may have the same.
        """
        if isinstance(key, (str, bytes)):  # their hashes differ from process to process
            return
        if isinstance(key, tuple) and (len(key) > 64 or any(isinstance(part, (tuple, frozenset)) for part in key)):
            raise Refused("a dictionary key made of nested tuples")
        if isinstance(key, frozenset):
            raise Refused("a set as a dictionary key")
        if isinstance(key, int) and abs(key) > LARGEST_NUMBER_KEY:
            raise Refused("an integer beyond 60 bits as a dictionary key")
        self._numbers.take(8 if isinstance(key, tuple) else 1)

    def ordered_dict(self, *args: Any) -> dict[Any, Any]:
        """Stand for ``collections.OrderedDict``, which Python 2 pickles with its items as the argument.

        Raises:
            Refused: the argument is no list of pairs.
        """
        pairs = args[0] if args else ()
        if len(args) > 1 or not isinstance(pairs, (list, tuple)) or any(len(pair) != 2 for pair in pairs):
            raise Refused("an ordered dictionary in an unknown layout")
        for pair in pairs:
            self.check(pair[0])
        return _OrderedDict(pairs)
