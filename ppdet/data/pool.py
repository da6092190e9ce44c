"""The main process's side of the data loading processes: tasks, batches in order, and errors."""

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
"""Number of batches that each worker is asked for in advance."""

_TICK = 1.0
"""Seconds between two checks of the time limit while no batch arrives."""

_GOODBYE = 1.0
"""Seconds that workers have to exit before they are killed."""

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
"""A worker ignores Ctrl-C and a cluster's SIGTERM: the main process handles them and needs batches until it stops."""


class Worker:
    """A worker process.

    Attributes:
        process: the process itself.
        journal: descriptor of the file in which the worker notes its current image, or None.
        tasks: number of requested batches that have not arrived yet.
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
                start_new_session=True,  # signals to the process groups of terminal and launcher do not reach it
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError:
            self.close()
            raise

    def send(self, message: Any) -> bool:
        """Send a message to the worker; return False if the worker has ended."""
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
    """Pass on what a worker sends, and None when it ends; runs in a thread that holds no reference to the pool."""
    while True:
        try:
            batch = pickle.load(stream)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # the message may be cut off anywhere
            results.put((worker, None))
            return
        results.put((worker, batch))


class WorkerPool:
    """Worker processes that live until ``close`` is called or this object is collected.

    Args:
        parcel: a BatchMaker.
        count: number of processes.
        shared: pass batches through shared memory if the system supports it, otherwise through pipes.

    Raises:
        UserError: the processes cannot be started.
    """

    def __init__(self, parcel: PickledOnce, count: int, shared: bool) -> None:
        if is_worker():
            raise UserError(
                "a data loading process has started to load data itself: put what your script runs behind "
                "if __name__ == '__main__', or move its dataset and transform classes to a module of their own"
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
            worker.send({**start, "journal": worker.journal})  # if the worker has died, waiting for a batch reports it

    @property
    def processes(self) -> list[int]:
        """Ids of the processes."""
        return [worker.process.pid for worker in self._workers]

    def batches(
        self, keys: Sequence[list[tuple[int, int]]], patience: float, stop: threading.Event
    ) -> Iterator[dict[str, Any]]:
        """Yield the batches of ``keys`` in order; their arrays are valid until the next batch is requested.

        A pool cannot be used again unless all batches were taken.

        Args:
            keys: (epoch, index) of the images of each batch.
            patience: seconds to wait for a batch; 0 waits forever.
            stop: event that ends the iteration.

        Raises:
            UserError: a process died, or no batch arrived in time.
        """
        rooms = list(range(_AHEAD * len(self._workers)))
        assigned: dict[int, tuple[int, int]] = {}  # index of a batch: worker, slot
        arrived: dict[int, Batch] = {}
        begun = 0
        for index in range(len(keys)):
            while rooms and begun < len(keys):
                assigned[begun] = self._give(begun, keys[begun], rooms.pop())
                begun += 1
            while index not in arrived:
                batch = self._wait(assigned[index][0], patience, stop)
                if batch is None:
                    return
                arrived[batch.batch_index] = batch
            done, (_, room) = arrived.pop(index), assigned.pop(index)
            arrays = self._slots[room].read(done.fields) if done.fields else {}
            yield {**arrays, **done.values}
            del arrays
            if self._slots:
                self._slots[room].trim()
            rooms.append(room)
        for slot in self._slots:
            slot.trim(keep=0)

    def _give(self, index: int, keys: list[tuple[int, int]], room: int) -> tuple[int, int]:
        """Give a task to the least busy worker; return the worker and the slot."""
        chosen = min(range(len(self._workers)), key=lambda place: self._workers[place].tasks)
        worker = self._workers[chosen]
        worker.tasks += 1
        if not worker.send(Task(index, keys, self._slots[room].descriptor if self._slots else None)):
            raise UserError(death(worker.process, worker.journal))
        return chosen, room

    def _wait(self, awaited: int, patience: float, stop: threading.Event) -> Batch | None:
        """Return the next batch that any worker sends; None once ``stop`` is set.

        Args:
            awaited: the worker that makes the batch needed next.
            patience: seconds.
            stop: see ``batches``.
        """
        waited = 0.0
        while not stop.is_set():
            begun = time.monotonic()
            try:
                place, batch = self._results.get(timeout=_TICK)
            except queue.Empty:
                # Each check counts two ticks at most, because this process itself may have been stopped meanwhile.
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
    """End all processes and release their resources."""
    if os.getpid() != owner:  # a fork of the main process does not own the workers
        return
    for worker in workers:
        try:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        except OSError:  # the worker ended before it received its last task
            pass
    deadline = time.monotonic() + (0 if any(worker.tasks for worker in workers) else _GOODBYE)
    for worker in workers:
        for seconds in (max(0.0, deadline - time.monotonic()), _GOODBYE):
            try:
                worker.process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                worker.process.kill()  # a process that hangs in a file system ends when the call returns
        worker.close()
    for thread, worker in zip(threads, workers):
        if thread is not threading.current_thread():  # the garbage collector may call this function in any thread
            thread.join(_GOODBYE)
        if not thread.is_alive() and worker.process.stdout is not None:
            worker.process.stdout.close()
    for slot in slots:
        slot.close()
    workers.clear()
    slots.clear()
    threads.clear()
