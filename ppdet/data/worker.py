"""A process that loads batches: it reads tasks from its standard input until that ends, and never imports Paddle.

It is a fresh process rather than a fork. A fork of a process with threads (Paddle's, OpenMP's, OpenCV's) inherits
locks in their current state and may wait forever for a thread that does not exist in it.
"""

from __future__ import annotations

import faulthandler
import io
import mmap
import os
import pickle
import runpy
import signal
import sys
import threading
import time
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from ppdet.data.batch_maker import BatchMaker, failure
from ppdet.data.shared_memory import PickledOnce, write_arrays
from ppdet.utils.errors import UserError

__all__ = ["JOURNAL_PAGE", "Batch", "Task", "is_worker", "main"]

JOURNAL_PAGE = 4096
"""Bytes at the beginning of a worker's journal that name the current image; stack traces follow them."""

_LOOK = 2.0
"""Seconds between two checks that the main process is still alive."""

_is_worker = False


class Task(NamedTuple):
    """A batch to make.

    Attributes:
        batch_index: index of the batch in its epoch.
        keys: (epoch, index) of the images.
        slot: descriptor of the shared memory to write to; None to send the arrays through the pipe.
    """

    batch_index: int
    keys: list[tuple[int, int]]
    slot: int | None


class Batch(NamedTuple):
    """The result of a task.

    Attributes:
        batch_index: index of the batch in its epoch.
        values: the batch, or the part of it that is not in shared memory.
        fields: positions of its arrays in the slot.
    """

    batch_index: int
    values: dict[str, Any]
    fields: list[Any]


def is_worker() -> bool:
    """Return whether this process is a data loading process."""
    return _is_worker


def main(parent: int, out: int) -> None:
    """Load batches until there are no more tasks.

    Args:
        parent: process id of the main process, which may have ended already.
        out: descriptor of the pipe to the main process. Standard output is redirected to standard error, so that
            output of a transform does not mix with the batches.
    """
    global _is_worker
    _is_worker = True
    tasks, results = os.fdopen(os.dup(0), "rb"), os.fdopen(out, "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    cv2.setNumThreads(0)  # the other cores are for the other workers
    try:
        _serve(tasks, results)
    except (BrokenPipeError, EOFError):
        return  # the main process has ended or needs no more batches


def _serve(tasks: Any, results: Any) -> None:
    start = pickle.load(tasks)
    sys.argv = start["argv"]
    note = _journal(start["journal"])
    maker = _received(start)
    while True:
        task: Task = pickle.load(tasks)
        batch = maker(task.keys, note) if isinstance(maker, BatchMaker) else maker
        message = _handed_over(task, batch)
        note("")
        pickle.dump(message, results, protocol=5)
        results.flush()


def _received(start: Mapping[str, Any]) -> BatchMaker | dict[str, Any]:
    """Return what makes the batches, or the report of why it cannot be loaded."""

    def loads(text: Any, buffers: Any) -> Any:
        return _Unpickler(io.BytesIO(text), start["script"], buffers).load()

    try:
        maker = PickledOnce.unpack(start["parcel"], loads)
        assert isinstance(maker, BatchMaker)
        return maker
    except (AttributeError, ImportError) as error:
        return failure(
            UserError(
                f"a data loading process cannot load the dataset and its transforms: {error}; define their classes in "
                "a module (a .py file) that can be imported, or load in the main process with worker_num=0"
            )
        )
    except Exception as error:
        return failure(error)


def _handed_over(task: Task, batch: dict[str, Any]) -> Batch:
    arrays = {key: value for key, value in batch.items() if isinstance(value, np.ndarray)}
    if task.slot is None or not arrays:
        return Batch(task.batch_index, batch, [])
    try:
        fields = write_arrays(task.slot, arrays)
    except OSError as error:
        why = f"there is no memory to pass on a batch ({error.strerror}): lower worker_num or batch_size"
        return Batch(task.batch_index, failure(UserError(why)), [])
    return Batch(task.batch_index, {key: value for key, value in batch.items() if key not in arrays}, fields)


def _journal(descriptor: int | None) -> Any:
    """Return a function that notes the current image; SIGUSR1 appends the current stack trace."""
    if descriptor is None:
        return lambda text: None
    os.ftruncate(descriptor, JOURNAL_PAGE)
    os.lseek(descriptor, JOURNAL_PAGE, os.SEEK_SET)
    faulthandler.register(signal.SIGUSR1, descriptor, all_threads=False)
    page = mmap.mmap(descriptor, JOURNAL_PAGE)

    def note(text: str) -> None:
        line = text.encode("utf-8", "replace")[: JOURNAL_PAGE - 1] + b"\0"
        page[: len(line)] = line

    return note


def _follow(parent: int) -> None:
    """End this process soon after its parent, even if another process keeps the pipe open."""
    while os.name != "posix" or os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


class _Unpickler(pickle.Unpickler):
    """Finds classes of the user's script, ``__main__`` in the main process, which is run here only if needed."""

    def __init__(self, file: Any, script: str | None, buffers: Any) -> None:
        super().__init__(file, buffers=buffers)
        self._script = script

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and not hasattr(sys.modules["__main__"], name):
            if self._script is None:
                raise ImportError(f"{name} is defined in a notebook or an interactive session")
            run = types.ModuleType("__mp_main__")
            # As in multiprocessing, code behind "if __name__ == '__main__'" does not run.
            run.__dict__.update(runpy.run_path(self._script, run_name="__mp_main__"))
            sys.modules["__main__"] = sys.modules["__mp_main__"] = run
        return super().find_class(module, name)
