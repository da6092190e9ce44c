"""Limits for pickled checkpoints: proportional to the size of the file, and checked before memory or time is spent.

A valid checkpoint contains each of its numbers once, about fifty instructions per tensor, and strings as keys.
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
MAX_DIMENSIONS = 32
"""Maximum number of dimensions of an array; NumPy 1 does not support more."""
FREE_COPIES = 1 << 20
"""Number of elements that calls may copy in a file of any size."""
FREE_INSTRUCTIONS = 1 << 19
"""Number of instructions in a file of any size; a tensor takes about fifty."""
BYTES_PER_INSTRUCTION = 128
"""Size in bytes of a file for which one additional instruction is allowed."""
MAX_NUMBER_KEYS = 8192
"""Maximum number of keys that are not texts, such as the parameter numbers of an optimizer; tuples count as eight."""
LARGEST_NUMBER_KEY = 1 << 60
"""Below this limit, Python's hash of an integer is the integer itself, so that hashes do not collide."""
LONGEST_INTEGER = 1024
"""Maximum number of bytes or digits; reading and printing integers takes quadratic time."""


PACKING = 16
"""Maximum ratio of the size of the content to the size of the file; weights are hardly compressible."""
FREE_BYTES = 1 << 24
"""Number of bytes, or elements of a tensor, that is always accepted."""


def brief(value: object) -> str:
    """Return a short text for a value from a file; deeply nested values are cut."""
    return reprlib.repr(value)


def check_total(file: Path, arrays: Iterable[np.ndarray]) -> None:
    """Check the total size of the tensors of a file, as several tensors may refer to the same data.

    Raises:
        UserError: the size is far beyond that of the file.
    """
    total = sum(array.nbytes for array in arrays)
    if total > max(PACKING * file.stat().st_size, FREE_BYTES):
        raise UserError(f"{file} describes {total} bytes of tensors but is far smaller: it is not a valid weight file")


class Refused(pickle.UnpicklingError):
    """The file contains something that checkpoints do not need, or it is inconsistent."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason, LONGEST_REASON))


class Budget:
    """A limited amount of some resource that a file may use.

    Args:
        amount: the total amount.
        reason: the message about a file that exceeds it.
    """

    def __init__(self, amount: int, reason: str) -> None:
        self._left, self._reason = amount, reason

    def take(self, amount: int) -> None:
        """Use a part of the budget.

        Raises:
            Refused: the budget is exceeded.
        """
        self._left -= amount
        if self._left < 0:
            raise Refused(self._reason)


class _OrderedDict(dict):
    """A dictionary that ignores attributes: PyTorch sets ``_metadata``, a malicious file could set ``items``."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class Keys:
    """Checks the keys of dictionaries and sets before they are hashed."""

    def __init__(self) -> None:
        self._numbers = Budget(MAX_NUMBER_KEYS, "thousands of keys that are no texts")

    def check(self, key: object) -> None:
        """Check a key.

        Raises:
            Refused: hashing it takes exponential time, or many keys may have the same hash.
        """
        if isinstance(key, (str, bytes)):  # their hashes are randomized
            return
        if isinstance(key, tuple) and (len(key) > 64 or any(isinstance(part, (tuple, frozenset)) for part in key)):
            raise Refused("a dictionary key made of nested tuples")
        if isinstance(key, frozenset):
            raise Refused("a set as a dictionary key")
        if isinstance(key, int) and abs(key) > LARGEST_NUMBER_KEY:
            raise Refused("an integer beyond 60 bits as a dictionary key")
        self._numbers.take(8 if isinstance(key, tuple) else 1)

    def ordered_dict(self, *args: Any) -> dict[Any, Any]:
        """Replace ``collections.OrderedDict``, which Python 2 pickles with its items as the argument.

        Raises:
            Refused: the argument is not a list of pairs.
        """
        pairs = args[0] if args else ()
        if len(args) > 1 or not isinstance(pairs, (list, tuple)) or any(len(pair) != 2 for pair in pairs):
            raise Refused("an ordered dictionary in an unknown layout")
        for pair in pairs:
            self.check(pair[0])
        return _OrderedDict(pairs)
