"""A data set whose sixth sample misbehaves; a separate module that worker processes can import without Paddle."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError


class Misbehaving:
    """Ten images; ``act`` is the name of a function below that is applied to the sixth image."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        return Odd(f"{index}.jpg", index, (8, 8), self.act if index == 5 else "nothing")


class Odd(Sample):
    """A sample that misbehaves when the first transform accesses its image."""

    def __init__(self, path: str, number: int, size: tuple[int, int], act: str) -> None:
        super().__init__(path, number, size, image=np.zeros((8, 8, 3), np.uint8), im_shape=(8, 8))
        self.act = act

    def pixels(self) -> np.ndarray:
        act, self.act = self.act, "nothing"
        globals()[act]()
        return super().pixels()


def nothing() -> None:
    """Behave normally."""


def broken() -> None:
    """Raise a user error."""
    raise UserError("the image x.jpg is broken")


def defect() -> None:
    """Raise an error caused by a bug."""
    raise ZeroDivisionError("a slip of the pen")


def out_of_memory() -> None:
    """Raise NumPy's error for insufficient memory."""
    raise MemoryError


def killed() -> None:
    """Kill the process as the system does if memory is exhausted."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_room() -> None:
    """Raise the signal for accessing a mapped file on a full disk."""
    os.kill(os.getpid(), signal.SIGBUS)


def leaves() -> None:
    """End the process as some libraries do."""
    os._exit(3)


def full() -> None:
    """Make further writes to shared memory fail."""

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.pwrite = no_space  # type: ignore[assignment]


def chatty() -> None:
    """Print from a C library and from Python."""
    os.write(1, b"from below\n")
    print("from above", flush=True)
    assert sys.stdin.read() == ""


def slow() -> None:
    """Take longer than for the other images."""
    time.sleep(2.5)


def sleeps() -> None:
    """Simulate a file server that does not respond."""
    time.sleep(600)


def stopped() -> None:
    """Stop the process without ending it."""
    os.kill(os.getpid(), signal.SIGSTOP)
