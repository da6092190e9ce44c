"""When one process of a training ends, all end, and each says why.

A collective operation whose partner is gone waits for half an hour (NCCL), or fails with a message about a socket
(gloo). ``paddle.distributed.launch`` ends the processes of its own node when one of them fails, not those of other
nodes. So every process keeps a connection to rank 0: a failure is told over it, and a connection that closes without a
goodbye is a process that was killed. The system itself notices a node that has gone silent (TCP keep-alive), whatever
its processes are busy with.

A process can also be stuck and alive. Each sends a sign of life every few seconds, from a thread: one that is stopped
or whose node hangs sends none. With it comes how far the main thread is, which the rest of the engine says by
``note_progress``: where none gets any further for long, one of them waits for something that does not come (a disk, a
file server), and the others for it; rank 0 then says who is where.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ppdet.engine.distributed.env import gather_objects, rank, time_limit, world_size
from ppdet.engine.distributed.interrupt import AgreedStop
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["note_progress", "watched"]

logger = setup_logger(__name__)

CONNECT_SECONDS = 20.0
NEWS_SECONDS = 3.0
"""How long a process whose collective operation failed waits to hear what became of the others."""
OWN_SECONDS = 1.0
"""How long a process that hears of a failure may take to end with a message of its own: a mistake in what all were
given makes all of them fail."""

BEAT_SECONDS = 5.0
"""Between two signs of life."""

_BYE, _FAILED, _ALIVE = "bye", "failed ", "alive "
_LONGEST = 2000
_TICK = 1.0
"""Seconds between two looks at the clock; no more than two of them count at a time, because a whole job may be stopped
for a while (and its clocks are not)."""
_NAMED = 4
"""Ranks that a message says the whereabouts of."""


class _Peers:
    """Connections of this process: rank 0 has one to every other rank, the others have one to rank 0."""

    def __init__(self, silence: float, standstill: float) -> None:
        self._links: dict[int, socket.socket] = {}
        self._failing = self._closing = False
        self._ending, self._sending = threading.Lock(), threading.Lock()
        self._silence, self._standstill = silence, standstill
        self._closed = threading.Event()
        self.places: dict[int, tuple[int, str]] = {}
        """How far each rank that this one hears of is: (how often it has said so, what it said last)."""

    def connect(self) -> bool:
        """Connect; return whether all processes could."""
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1").rpartition(":")[0]
        server = _listening(host) if rank() == 0 else None
        address = (host, server.getsockname()[1], secrets.token_hex(16)) if server else None
        host, port, token = gather_objects(address)[0]
        try:
            self._links = _accepted(server, token) if server else {0: _connected(host, port, token)}
            problem = ""
        except OSError as error:
            problem = f"rank {rank()}: {error}"
        finally:
            if server:
                server.close()
        problems = [text for text in gather_objects(problem) if text]
        if problems:
            logger.warning("processes cannot tell each other of failures: no connection to %s (%s)", host, problems[0])
            self.close()
            return False
        for other, link in self._links.items():
            threading.Thread(target=self._listen, args=(other, link), name=f"rank {other}", daemon=True).start()
        threading.Thread(target=self._live, name="signs of life", daemon=True).start()
        return True

    def tell(self, message: str) -> None:
        """Tell the others why this process ends, and let it end a little after them: gloo aborts whoever is left."""
        self._failing = True
        self._send(_FAILED + f"rank {rank()} failed: {' '.join(message.split())[:_LONGEST]}")
        atexit.register(_linger)

    def close(self) -> None:
        """Say goodbye: the end of this process is none of the others' business from now on."""
        self._closing = True
        self._closed.set()
        self._send(_BYE)
        for link in self._links.values():
            with suppress(OSError):  # the other end may have closed it
                link.shutdown(socket.SHUT_RDWR)  # wakes the listener
            link.close()

    def _send(self, line: str, but: int | None = None) -> None:
        for other, link in self._links.items():
            if other != but:
                with self._sending, suppress(OSError):  # that one has ended or is stuck
                    link.sendall(line.encode("utf-8") + b"\n")

    def progress(self, text: str) -> None:
        """Note how far this process is."""
        self.places[rank()] = (self.places.get(rank(), (0, ""))[0] + 1, text)

    def _live(self) -> None:
        """Send signs of life, and on rank 0 see whether anything goes on; runs in a thread of its own."""
        seen: dict[int, tuple[int, str]] = {}
        still = 0.0
        while not self._closed.wait(BEAT_SECONDS):
            count, text = self.places.get(rank(), (0, ""))
            self._send(f"{_ALIVE}{count} {text}")
            still = 0.0 if self.places != seen else still + BEAT_SECONDS
            seen = dict(self.places)
            if rank() == 0 and seen and 0 < self._standstill <= still:
                order = sorted(seen, key=lambda one: seen[one][0])
                where = [f"rank {one} {seen[one][1]}" for one in order[:_NAMED]]
                more = [f"{len(order) - _NAMED} others are no further behind"] if len(order) > _NAMED else []
                self._end(
                    f"no process got any further for {self._standstill:g} s (progress_timeout): "
                    f"{'; '.join(where + more)}; the first of these is the one to look at",
                    told=True,
                )

    def _listen(self, other: int, link: socket.socket) -> None:
        """Wait for what the other end has to say; runs in a thread of its own."""
        received, silent = b"", 0.0
        line = ""
        while not self._closing:
            begun = time.monotonic()
            try:
                part = link.recv(4 * _LONGEST)
            except socket.timeout:
                silent += min(time.monotonic() - begun, 2 * _TICK)
                if 0 < self._silence <= silent:
                    place = f", last seen when it {self.places[other][1]}" if other in self.places else ""
                    cause = (
                        f"rank {other} has given no sign of life for {self._silence:g} s (heartbeat_timeout){place}: "
                    )
                    self._end(f"{cause}stopped (SIGSTOP), or its node hangs", told=True, but=other)
                    return
                continue
            except OSError:  # reset, or silent for longer than the system waits
                part = b""
            silent = 0.0
            *lines, received = (received + part).split(b"\n")
            line = ""
            for line in (one.decode("utf-8", "replace") for one in lines):
                if not line.startswith(_ALIVE):
                    break
                count, _, text = line[len(_ALIVE) :].partition(" ")
                self.places[other] = (int(count), text)
            if not part or len(received) > 8 * _LONGEST or (line and not line.startswith(_ALIVE)):
                break
        if line == _BYE or self._closing:
            return
        if line.startswith(_FAILED):
            self._end(line[len(_FAILED) :], told=True, but=other)
        else:
            why = "killed (out of memory?) or crashed; see the end of its log"
            self._end(f"rank {other} ended without a word: {why}", told=False, but=other)

    def _end(self, cause: str, told: bool, but: int | None = None) -> None:
        """End this process, and if it is rank 0 all others.

        Args:
            cause: what to say.
            told: the others still live, so there is time for a message of this process's own.
            but: rank that need not be told.
        """
        with self._ending:  # held to the end: one cause is enough
            if rank() == 0:
                self._send(_FAILED + cause, but=but)
            if told:  # gloo aborts this process as soon as the other one is gone, so do not wait if it is
                time.sleep(OWN_SECONDS)
            if self._failing or self._closing:
                return
            sys.stdout.flush()
            os.write(2, f"error: training stopped, {cause}\n".encode())
            # The main thread is stuck in a collective operation, which no exception reaches.
            os._exit(1)

    def forget(self) -> None:
        """Drop the connections without a word."""
        for link in self._links.values():
            link.close()
        self._links = {}


def _linger() -> None:
    """Wait for the others to end; the launcher may end this process meanwhile, which Paddle would call a crash."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))
    time.sleep(2 * OWN_SECONDS)


def _listening(host: str) -> socket.socket:
    try:
        return socket.create_server((host, 0))
    except OSError:  # the name the others know this node by is not an address of its own (containers)
        return socket.create_server(("", 0))


def _accepted(server: socket.socket, token: str) -> dict[int, socket.socket]:
    """Connections of all other ranks; whoever does not know the token is no rank."""
    links: dict[int, socket.socket] = {}
    end = time.monotonic() + CONNECT_SECONDS
    while len(links) < world_size() - 1:
        server.settimeout(max(0.01, end - time.monotonic()))
        link, _ = server.accept()
        link.settimeout(CONNECT_SECONDS)
        word, _, other = _line(link).partition(" ")
        if secrets.compare_digest(word.encode(), token.encode()) and other.isdigit():
            links[int(other)] = _kept_alive(link)
        else:
            link.close()
    return links


def _connected(host: str, port: int, token: str) -> socket.socket:
    link = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    link.sendall(f"{token} {rank()}\n".encode())
    return _kept_alive(link)


def _kept_alive(link: socket.socket) -> socket.socket:
    """Let the system close the connection when the other node has been silent for half a minute."""
    link.settimeout(_TICK)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not all on macOS
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link


def _line(link: socket.socket) -> str:
    """Receive up to the end of the line, or of the connection (then empty: half a word does not count)."""
    received = b""
    while b"\n" not in received:
        part = link.recv(4 * _LONGEST)
        if not part or len(received) > 8 * _LONGEST:
            return ""
        received += part
    return received.decode("utf-8", "replace").split("\n")[0]


_peers: _Peers | None = None


def _in_forked_process() -> None:
    """A fork holds copies of the connections, which would keep them open after their owner's end."""
    if _peers is not None:
        _peers.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)


def note_progress(text: str) -> None:
    """Say how far this process is, for a message in case it gets no further; costs next to nothing.

    Args:
        text: what the main thread is about to do ("computes step 12").
    """
    if _peers is not None:
        _peers.progress(text)


@contextmanager
def watched() -> Iterator[None]:
    """Context of what all processes do together: the failure of one ends them all, with its message on each.

    All processes must enter it, and in the same order relative to collective operations. A context inside another one
    changes nothing.
    """
    global _peers
    if world_size() == 1 or _peers is not None:
        yield
        return
    peers = _peers = _Peers(time_limit("heartbeat_timeout", 300.0), time_limit("progress_timeout", 3600.0))
    try:
        if not peers.connect():
            yield
            return
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
            # Mostly a collective operation that noticed another process's end; the listener knows more and ends this.
            time.sleep(NEWS_SECONDS)
            peers.tell(f"{type(error).__name__}: {error}")
            raise
        finally:
            peers.close()
    finally:
        _peers = None
