"""Ending all processes of a training when one of them ends, each with a message that gives the cause.

A collective operation whose partner has gone waits for half an hour (NCCL), or fails with a message about a socket
(gloo). ``paddle.distributed.launch`` ends the processes of its own node when one of them fails, but not those of other
nodes. Therefore every process keeps a connection to rank 0. A process that fails sends its message over it, and rank 0
passes the message on. A connection that closes without a message belongs to a process that was killed.

Processes can also be alive without making progress. Each sends a heartbeat every few seconds from a thread; a process
that is stopped, or whose node hangs, does not. A heartbeat also reports what the main thread is doing, as recorded by
`note_progress`. If no process makes progress for a long time, one of them waits for something that does not come (a
disk, a file server) and the others wait for that one; rank 0 then reports where each of them is.

All processes leave at the same time, because gloo aborts a process whose partner has gone, whether or not it has
printed its message: every process closes its end of the connection when its message is written, and rank 0 closes its
own ends when all others have done so.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine.distributed.env import rank, world_size
from ppdet.engine.distributed.interrupt import AgreedStop
from ppdet.engine.distributed.links import LINE_LIMIT, POLL_SECONDS, Link, LinkError, connect_links
from ppdet.engine.distributed.terminate import before_abort
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["note_progress", "watched"]

logger = setup_logger(__name__)

NEWS_SECONDS = 3.0
"""How long a process whose collective operation failed waits for news of the others."""
OWN_SECONDS = 1.0
"""How long a process that hears of another's failure lets its main thread fail by itself: an error in what all
processes were given makes all of them fail, each with a message of its own."""
PARTING_SECONDS = 5.0
"""How long rank 0 waits for the messages of the others before it exits."""
BEAT_SECONDS = 5.0
"""Time between two heartbeats."""

_BYE, _ALIVE = "bye", "alive "
_FAILED = "failed "
"""Precedes the message of a process that failed."""
_ENDED = "ended "
"""Precedes what rank 0 noticed of a process that cannot send a message. The others are stuck in a collective operation
and have nothing to say themselves."""
_RANKS_SHOWN = 4
"""Ranks whose progress a message reports."""


class _Peers:
    """The connections of this process, and the messages received over them.

    Args:
        silence: seconds without a heartbeat after which a process counts as stopped; 0 for no limit.
        standstill: seconds without progress of any process after which all end; 0 for no limit.

    Attributes:
        places: by rank, how often that process has reported progress, and its last report.
        failing: the main thread has failed and ends the process with its own message.
    """

    def __init__(self, silence: float, standstill: float) -> None:
        self._silence, self._standstill = silence, standstill
        self._links: dict[int, Link] = {}
        self._gone: dict[int, threading.Event] = {}
        """By rank: that process has written its last message, or has ended."""
        self._cause = threading.Lock()
        """Held by the thread that ends this process because of another one: one cause is enough."""
        self._decision = threading.Lock()
        """Held by the thread that decides how this process ends: the main thread, or the one with a cause."""
        self._closed = threading.Event()
        self.failing = threading.Event()
        self.places: dict[int, tuple[int, str]] = {}

    def connect(self) -> bool:
        """Connect all processes; return whether that was possible."""
        try:
            self._links = connect_links()
        except LinkError as error:
            logger.warning("processes cannot notify each other of failures: %s", error)
            return False
        self._gone = {peer: threading.Event() for peer in self._links}
        for peer in self._links:
            threading.Thread(target=self._listen, args=(peer,), name=f"rank {peer}", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return True

    def tell(self, message: str) -> None:
        """Send the others the message with which this process fails; at its exit it waits for theirs."""
        with self._decision:
            self.failing.set()
        self._send(f"{_FAILED}rank {rank()} failed: {' '.join(message.split())[:LINE_LIMIT]}")
        atexit.register(self._part_at_exit)

    def close(self) -> None:
        """Say goodbye: from now on this process may end without ending the others."""
        with self._decision:
            self._closed.set()
        self._send(_BYE)
        for link in self._links.values():
            link.close()

    def forget(self) -> None:
        """Close this process's copies of the connections without a goodbye."""
        for link in self._links.values():
            link.forget()
        self._links = {}

    def note(self, text: str) -> None:
        """Record what the main thread is doing."""
        self.places[rank()] = (self.places.get(rank(), (0, ""))[0] + 1, text)

    def await_news(self) -> None:
        """Wait for a listening thread to end this process because of another one; return if none does."""
        if threading.current_thread() is threading.main_thread():
            # A launcher that has noticed the same failure would cut the message off.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(NEWS_SECONDS)
        with self._decision:  # if it is held, it is to the end
            pass

    # ------------------------------------------------------------------------------------------------ threads
    def _beat(self) -> None:
        """Send heartbeats, and on rank 0 check for progress."""
        last_places: dict[int, tuple[int, str]] = {}
        still = 0.0
        while not self._closed.wait(BEAT_SECONDS) and not self.failing.is_set():
            count, text = self.places.get(rank(), (0, ""))
            self._send(f"{_ALIVE}{count} {text}")
            still = 0.0 if self.places != last_places else still + BEAT_SECONDS
            last_places = dict(self.places)
            if rank() == 0 and last_places and 0 < self._standstill <= still:
                self._end(_ENDED, self._standstill_message(last_places))

    def _standstill_message(self, places: dict[int, tuple[int, str]]) -> str:
        order = sorted(places, key=lambda peer: places[peer][0])
        reports = [f"rank {peer} {places[peer][1]}" for peer in order[:_RANKS_SHOWN]]
        if len(order) > _RANKS_SHOWN:
            reports.append(f"{len(order) - _RANKS_SHOWN} others are no further behind")
        return (
            f"no process has made progress for {self._standstill:g} s (progress_timeout): {'; '.join(reports)}; "
            "look at the first of these"
        )

    def _listen(self, peer: int) -> None:
        """Receive what a process sends until it is gone."""
        link = self._links[peer]
        silent, explained = 0.0, False
        lines: list[str] | None = []
        while not self._closed.is_set():
            begun = time.monotonic()
            lines = link.receive()
            if lines is None:
                break
            # The whole job may be suspended for a while, and the clock with it: a wait counts twice its limit at most.
            silent = 0.0 if lines else silent + min(time.monotonic() - begun, 2 * POLL_SECONDS)
            for line in lines:
                explained = self._take(peer, line) or explained
            if 0 < self._silence <= silent and not explained:
                place = f", last seen when it {self.places[peer][1]}" if peer in self.places else ""
                self._end_in_thread(
                    _ENDED,
                    f"rank {peer} has sent no heartbeat for {self._silence:g} s (heartbeat_timeout){place}: "
                    "stopped (SIGSTOP), or its node hangs",
                )
                break
        self._gone[peer].set()
        if lines is None and not explained and not self._closed.is_set():
            why = "killed (out of memory?) or crashed; see the end of its log"
            self._end_in_thread(_ENDED, f"rank {peer} ended without a message: {why}")

    def _take(self, peer: int, line: str) -> bool:
        """Handle a line; return whether it explains why the process ends."""
        if line.startswith(_ALIVE):
            count, _, text = line[len(_ALIVE) :].partition(" ")
            self.places[peer] = (int(count), text)
            return False
        for kind in (_FAILED, _ENDED):
            if line.startswith(kind):
                self._end_in_thread(kind, line[len(kind) :])
                return True
        return line == _BYE

    def _end_in_thread(self, kind: str, cause: str) -> None:
        threading.Thread(target=self._end, args=(kind, cause), name="end", daemon=True).start()

    def _end(self, kind: str, cause: str) -> None:
        """End this process, and on rank 0 all others, unless the main thread ends it by itself.

        Args:
            kind: `_FAILED` gives the main thread some time to fail by itself, `_ENDED` does not.
            cause: the message.
        """
        with self._cause:
            if rank() == 0:
                self._send(kind + cause)
            if kind == _FAILED:
                self.failing.wait(OWN_SECONDS)
            with self._decision:
                if self.failing.is_set() or self._closed.is_set():
                    return
                sys.stdout.flush()
                os.write(2, f"error: training stopped, {cause}\n".encode())
                self._part()
                # The main thread is stuck in a collective operation, where no exception reaches it.
                os._exit(1)

    # ------------------------------------------------------------------------------------------------ parting
    def _send(self, line: str) -> None:
        for link in self._links.values():
            link.send(line)

    def _part(self) -> None:
        """Wait until all processes have written their messages; this one has."""
        end = time.monotonic() + PARTING_SECONDS * (1 if rank() == 0 else 2)
        if rank() != 0:
            self._finish()
        for gone in self._gone.values():
            gone.wait(max(0.0, end - time.monotonic()))
        if rank() == 0:
            self._finish()

    def _finish(self) -> None:
        for link in self._links.values():
            link.finish()

    def _part_at_exit(self) -> None:
        """Wait for the others; a launcher's SIGTERM cuts it short, without Paddle's report of a crash."""
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(1))
        self._part()


_peers: _Peers | None = None


def _in_forked_process() -> None:
    """A fork's copies of the connections would keep them open after their owner has ended."""
    if _peers is not None:
        _peers.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)


def note_progress(text: str) -> None:
    """Record what this process is about to do, for the message in case no process makes progress; costs no time.

    Args:
        text: what the main thread does next, as a verb phrase ("computes step 12").
    """
    if _peers is not None:
        _peers.note(text)


@contextmanager
def watched(settings: RuntimeSettings) -> Iterator[None]:
    """Context of work that all processes do together: the failure of one ends them all, with its message on each.

    All processes must enter it, in the same order relative to collective operations. A context within another one has
    no effect.

    Args:
        settings: of the run; ``heartbeat_timeout`` and ``progress_timeout`` are used.
    """
    global _peers
    if world_size() == 1 or _peers is not None:
        yield
        return
    peers = _peers = _Peers(settings.heartbeat_timeout, settings.progress_timeout)
    try:
        if not peers.connect():
            yield
            return
        with before_abort(peers.await_news), _failure_announced(peers):
            yield
    finally:
        _peers = None


@contextmanager
def _failure_announced(peers: _Peers) -> Iterator[None]:
    """Context that reports its failure to the other processes."""
    try:
        yield
    except UserError as error:
        peers.tell(str(error))
        raise
    except AgreedStop:
        raise
    except KeyboardInterrupt:
        peers.tell("interrupted")
        raise
    except Exception as error:
        # Mostly a collective operation that noticed the end of another process: a listening thread knows more, and
        # ends this process with that.
        time.sleep(NEWS_SECONDS)
        peers.tell(f"{type(error).__name__}: {error}")
        raise
    finally:
        if not peers.failing.is_set():
            peers.close()
