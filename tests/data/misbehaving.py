"""A data set whose sixth sample does something odd; apart, because worker processes import it, and need no Paddle."""

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
    """Ten images; ``act`` names a function below, which the sixth is done to."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        return Odd(f"{index}.jpg", index, (8, 8), self.act if index == 5 else "nothing")


class Odd(Sample):
    """The first transform finds out, by asking for the image, that it is an odd one."""

    def __init__(self, path: str, number: int, size: tuple[int, int], act: str) -> None:
        super().__init__(path, number, size, image=np.zeros((8, 8, 3), np.uint8), im_shape=(8, 8))
        self.act = act

    def pixels(self) -> np.ndarray:
        act, self.act = self.act, "nothing"
        globals()[act]()
        return super().pixels()


def nothing() -> None:
    """As it should be."""


def broken() -> None:
    """A mistake of the user's."""
    raise UserError("the image x.jpg is broken")


def defect() -> None:
    """A mistake of the program's."""
    raise ZeroDivisionError("a slip of the pen")


def out_of_memory() -> None:
    """As NumPy says it."""
    raise MemoryError


def killed() -> None:
    """What the system does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_room() -> None:
    """What touching a file's page on a full disk ends in."""
    os.kill(os.getpid(), signal.SIGBUS)


def leaves() -> None:
    """A library that ends the process."""
    os._exit(3)


def full() -> None:
    """From here on nothing can be written into shared memory."""

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.pwrite = no_space  # type: ignore[assignment]


def chatty() -> None:
    """Output of a C library and of Python."""
    os.write(1, b"from below\n")
    print("from above", flush=True)
    assert sys.stdin.read() == ""


def slow() -> None:
    """Longer than the other images."""
    time.sleep(2.5)


def sleeps() -> None:
    """A file server that does not answer."""
    time.sleep(600)


def stopped() -> None:
    """A process that runs no more, though it lives."""
    os.kill(os.getpid(), signal.SIGSTOP)
