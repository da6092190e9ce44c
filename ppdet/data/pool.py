"""The processes that load batches, as the main process sees them: tasks, batches in order, and what goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.spawn import get_executable
from typing import Any

from ppdet.data.shared_memory import PickledOnce, Slot, anonymous_file, has_anonymous_memory
from ppdet.data.worker import Batch, Task, is_worker
from ppdet.data.worker_report import death, stuck
from ppdet.utils.errors import UserError

__all__ = ["WorkerPool"]

_AHEAD = 2
"""Batches that each worker is given ahead of the one that is waited for."""

_TICK = 1.0
"""Seconds between two looks at the clock while no batch comes."""

_GOODBYE = 1.0
"""Seconds for workers to end by themselves."""

_BOOT = """\
import json, os, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.path[:] = json.loads(sys.argv.pop())
parent, out = int(sys.argv.pop()), os.dup(1)
os.dup2(2, 1)
from ppdet.data.worker import main
main(parent, out)
"""
"""A worker leaves Ctrl-C and a cluster's SIGTERM to the main process, which needs batches up to where it stops."""


class Worker:
    """A worker process.

    Attributes:
        process: the process itself.
        journal: descriptor of the file in which it says what it does, or None.
        tasks: how many batches it has been asked for and has not sent.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.journal = anonymous_file()
        self.tasks = 0
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        inherited = [*descriptors, *([] if self.journal is None else [self.journal])]
        try:
            self.process = subprocess.Popen(
                [get_executable(), "-c", _BOOT, str(os.getpid()), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **threads},
                pass_fds=inherited if os.name == "posix" else (),
                start_new_session=True,  # out of reach of signals to the terminal's and the launcher's groups
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError:
            self.close()
            raise

    def send(self, message: Any) -> bool:
        """Hand a message to the worker; return whether it could be."""
        assert self.process.stdin is not None
        try:
            pickle.dump(message, self.process.stdin, protocol=5)
            self.process.stdin.flush()
        except (BrokenPipeError, ConnectionError):
            return False
        return True

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            os.close(self.journal)
            self.journal = None


def _receive(worker: int, stream: Any, results: queue.SimpleQueue[tuple[int, Batch | None]]) -> None:
    """Pass on what a worker sends, at its end None; runs in a thread, which keeps nothing of the pool alive."""
    while True:
        try:
            batch = pickle.load(stream)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # cut off wherever it was
            results.put((worker, None))
            return
        results.put((worker, batch))


class WorkerPool:
    """Worker processes that live until ``close``, or as long as this object.

    Args:
        parcel: a BatchMaker.
        count: number of processes.
        shared: batches come through shared memory where the system has it, else through pipes.

    Raises:
        UserError: the processes cannot be started.
    """

    def __init__(self, parcel: PickledOnce, count: int, shared: bool) -> None:
        if is_worker():
            raise UserError(
                "a data loading process begins to load data itself: what your script runs must stand behind "
                "if __name__ == '__main__', or the classes it defines for the data in a module of their own"
            )
        self.checksum = parcel.checksum
        self._results: queue.SimpleQueue[tuple[int, Batch | None]] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._slots: list[Slot] = []
        self._threads: list[threading.Thread] = []
        self.close = weakref.finalize(self, _end, os.getpid(), self._workers, self._slots, self._threads)
        try:
            parcel.place()
            if shared and has_anonymous_memory():
                self._slots.extend(Slot() for _ in range(_AHEAD * count))
            self._start(parcel, count)
        except OSError as error:
            self.close()
            raise UserError(
                f"cannot start {count} data loading processes ({error.strerror or error}): lower worker_num, raise the "
                "limits of processes and open files (ulimit), or load in the main process with worker_num=0"
            ) from error
        finally:
            parcel.close()

    def _start(self, parcel: PickledOnce, count: int) -> None:
        descriptors = [slot.descriptor for slot in self._slots]
        if parcel.descriptor is not None:
            descriptors.append(parcel.descriptor)
        for _ in range(count):
            self._workers.append(Worker(descriptors))
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        start = {"parcel": parcel.parcel(), "script": script and os.path.abspath(script), "argv": sys.argv}
        for place, worker in enumerate(self._workers):
            arguments = (place, worker.process.stdout, self._results)
            self._threads.append(threading.Thread(target=_receive, args=arguments, daemon=True, name="batches"))
            self._threads[-1].start()
            worker.send({**start, "journal": worker.journal})  # a death is noticed when batches are waited for

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes."""
        return [worker.process.pid for worker in self._workers]

    def batches(
        self, keys: Sequence[list[tuple[int, int]]], patience: float, stop: threading.Event
    ) -> Iterator[dict[str, Any]]:
        """Yield the batches of ``keys`` in order; arrays are good until the next one is asked for.

        A pool whose batches were not all taken is of no further use.

        Args:
            keys: (epoch, index) of the images of each batch.
            patience: seconds to wait for a batch; 0 waits for ever.
            stop: no more batches are wanted once it is set.

        Raises:
            UserError: a process died, or no batch came.
        """
        rooms = list(range(_AHEAD * len(self._workers)))
        given: dict[int, tuple[int, int]] = {}  # number of a batch: worker, slot
        arrived: dict[int, Batch] = {}
        begun = 0
        for number in range(len(keys)):
            while rooms and begun < len(keys):
                given[begun] = self._give(begun, keys[begun], rooms.pop())
                begun += 1
            while number not in arrived:
                batch = self._wait(given[number][0], patience, stop)
                if batch is None:
                    return
                arrived[batch.number] = batch
            done, (_, room) = arrived.pop(number), given.pop(number)
            arrays = self._slots[room].read(done.fields) if done.fields else {}
            yield {**arrays, **done.values}
            del arrays
            if self._slots:
                self._slots[room].trim()
            rooms.append(room)
        for slot in self._slots:
            slot.trim(keep=0)

    def _give(self, number: int, keys: list[tuple[int, int]], room: int) -> tuple[int, int]:
        """Give a task to the least busy worker."""
        chosen = min(range(len(self._workers)), key=lambda place: self._workers[place].tasks)
        worker = self._workers[chosen]
        worker.tasks += 1
        if not worker.send(Task(number, keys, self._slots[room].descriptor if self._slots else None)):
            raise UserError(death(worker.process, worker.journal))
        return chosen, room

    def _wait(self, awaited: int, patience: float, stop: threading.Event) -> Batch | None:
        """Return the next batch that any worker sends; None if none is wanted any more.

        Args:
            awaited: the worker that has the batch which is needed.
            patience: seconds.
            stop: see ``batches``.
        """
        waited = 0.0
        while not stop.is_set():
            begun = time.monotonic()
            try:
                place, batch = self._results.get(timeout=_TICK)
            except queue.Empty:
                # Not more than a little for each look: this process, too, may have been stopped for a while.
                waited += min(time.monotonic() - begun, 2 * _TICK)
                if not 0 < patience <= waited:
                    continue
                order = [self._workers[awaited], *(w for w in self._workers if w is not self._workers[awaited])]
                raise UserError(stuck([(w.process.pid, w.journal, w.tasks) for w in order], patience)) from None
            worker = self._workers[place]
            if batch is None:
                raise UserError(death(worker.process, worker.journal))
            worker.tasks -= 1
            return batch
        return None


def _end(owner: int, workers: list[Worker], slots: list[Slot], threads: list[threading.Thread]) -> None:
    """End all processes and leave nothing behind."""
    if os.getpid() != owner:  # a fork of the main process, which has no say in this
        return
    for worker in workers:
        try:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        except OSError:  # it has ended, with a task on its way
            pass
    deadline = time.monotonic() + (0 if any(worker.tasks for worker in workers) else _GOODBYE)
    for worker in workers:
        for seconds in (max(0.0, deadline - time.monotonic()), _GOODBYE):
            try:
                worker.process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                worker.process.kill()  # one that hangs in a file system stays until that answers
        worker.close()
    for thread, worker in zip(threads, workers):
        if thread is not threading.current_thread():  # the garbage collector may have called this in any
            thread.join(_GOODBYE)
        if not thread.is_alive() and worker.process.stdout is not None:
            worker.process.stdout.close()
    for slot in slots:
        slot.close()
    workers.clear()
    slots.clear()
    threads.clear()
