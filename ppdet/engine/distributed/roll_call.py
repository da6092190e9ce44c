"""A process that ends before it has joined the others ends them as well.

When Paddle joins processes, it waits up to a quarter of an hour for a missing one without reacting to anything, and
does not name it. Therefore all processes first report to rank 0 at its endpoint, which Paddle itself does not use. They
continue together, a process that fails reports that when it exits, and a process that does not report is named.

This module does not import Paddle, so that a tool can call `announce_failure` before it does.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import time
import zlib
from contextlib import suppress

from ppdet.utils.errors import UserError

__all__ = ["announce_failure", "roll_call"]

LINGER_SECONDS = 20.0
"""How long a failing process tries to report: the others may not have started so far."""

_TICK = 0.5
_LINE_LIMIT = 200
_HERE, _GONE = "here", "gone"

_is_past = False
"""Whether this process has completed the roll call, or does not need it."""


def _rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def _endpoints() -> list[tuple[str, int]]:
    """Return the addresses of the ranks; empty for a single process."""
    texts = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    endpoints = [(host, int(port)) for host, _, port in (text.rpartition(":") for text in texts) if port.isdigit()]
    return endpoints if len(endpoints) > 1 else []


def announce_failure() -> None:
    """Let this process, if it is one of several, tell the others when it ends before the roll call."""
    if _endpoints():
        atexit.register(_tell)


def roll_call(seconds: float) -> None:
    """Wait until all processes have reported.

    Args:
        seconds: time limit; 0 leaves joining to Paddle.

    Raises:
        UserError: a process has failed, or has not reported in time.
    """
    global _is_past
    if not _endpoints() or seconds == 0:
        _is_past = True
        return
    end = time.monotonic() + seconds
    try:
        gone = _Listener().run(end) if _rank() == 0 else _report(_HERE, end)
    except _MissingError as error:
        names = ", ".join(f"rank {rank} ({_endpoints()[rank][0]})" for rank in error.ranks[:8])
        raise UserError(
            f"{names} did not report within {seconds:g} s (join_timeout); look at the end of its log, and at the "
            f"firewall between the nodes; join_timeout=0 leaves joining to Paddle"
        ) from None
    finally:
        _is_past = True
    if gone is not None:
        raise UserError(f"training stopped, rank {gone} ended before all had joined; see the end of its log")


def _tell() -> None:
    """Report that this process has failed; runs when it exits."""
    if _is_past:
        return
    end = time.monotonic() + LINGER_SECONDS
    with suppress(OSError, _MissingError, UserError):  # no process is listening, or the connection failed
        if _rank() == 0:
            _Listener().run(end, gone=0)
        else:
            _report(_GONE, end)


class _MissingError(Exception):
    """Some ranks have not reported in time."""

    def __init__(self, ranks: list[int]) -> None:
        super().__init__()
        self.ranks = ranks


def _word(kind: str, rank: int) -> str:
    """Return a line that identifies the job, so that only its own processes are listened to."""
    return f"ppdet {zlib.crc32(os.environ.get('PADDLE_TRAINER_ENDPOINTS', '').encode()):08x} {kind} {rank}"


def _understood(text: str) -> tuple[str, int] | None:
    """Return (kind, rank) of a complete line of this job, or None."""
    line, newline, _ = text.partition("\n")
    parts = line.split(" ")
    if not newline or len(parts) != 4 or not parts[3].isdigit() or line != _word(parts[2], int(parts[3])):
        return None
    return parts[2], int(parts[3])


class _Listener:
    """The end of rank 0."""

    def __init__(self) -> None:
        host, port = _endpoints()[0]
        try:
            self._server = socket.create_server((host, port))
        except OSError:  # in a container, the name by which others reach this node may not be a local address
            try:
                self._server = socket.create_server(("", port))
            except OSError as error:
                raise UserError(
                    f"cannot listen at {host}:{port} for the other processes ({error.strerror}): end what uses the "
                    "port, or leave joining to Paddle with join_timeout=0"
                ) from error
        self._texts: dict[socket.socket, str] = {}
        self._seen: set[int] = set()

    def run(self, end: float, gone: int | None = None) -> int | None:
        """Listen until all others have reported, then tell them to continue, or which rank has failed.

        Args:
            end: time limit on the monotonic clock.
            gone: rank that is known to have failed.

        Returns:
            The rank that has failed, or None.

        Raises:
            _MissingError: not all have reported in time, and none has failed.
        """
        expected = set(range(1, len(_endpoints())))
        try:
            while self._seen < expected and time.monotonic() < end:
                readable, _, _ = select.select([self._server, *self._texts], [], [], _TICK)
                for link in readable:
                    if link is self._server:
                        self._accept()
                        continue
                    failed = self._receive(link)
                    if failed is not None and gone is None:
                        gone, end = failed, min(end, time.monotonic() + LINGER_SECONDS)
                if gone is not None:
                    self._send(_word(_GONE, gone))
            if gone is None and self._seen < expected:
                raise _MissingError(sorted(expected - self._seen))
            self._send(_word(_HERE, 0) if gone is None else _word(_GONE, gone))
            return gone
        finally:
            for link in (self._server, *self._texts):
                link.close()

    def _send(self, line: str) -> None:
        for link in self._texts:
            with suppress(OSError):  # it has ended
                link.sendall(line.encode() + b"\n")

    def _accept(self) -> None:
        link, _ = self._server.accept()
        link.settimeout(_TICK)
        self._texts[link] = ""

    def _receive(self, link: socket.socket) -> int | None:
        """Receive from a process; return its rank if it reports a failure."""
        try:
            part = link.recv(_LINE_LIMIT)
        except OSError:
            part = b""
        self._texts[link] += part.decode("ascii", "replace")
        heard = _understood(self._texts[link])
        if heard is not None:
            self._seen.add(heard[1])
        if not part or len(self._texts[link]) > _LINE_LIMIT:
            del self._texts[link]
            link.close()
        return heard[1] if heard is not None and heard[0] == _GONE else None


def _report(kind: str, end: float) -> int | None:
    """Report to rank 0, which may not have started yet.

    Args:
        kind: `_HERE` or `_GONE`.
        end: time limit on the monotonic clock.

    Returns:
        The rank that has failed; None if all have reported.

    Raises:
        _MissingError: rank 0 has not been reached.
    """
    while time.monotonic() < end:
        try:
            with socket.create_connection(_endpoints()[0], timeout=5.0) as link:
                link.sendall(_word(kind, _rank()).encode() + b"\n")
                return None if kind == _GONE else _answer(link, end)
        except OSError:
            time.sleep(_TICK)
    raise _MissingError([0])


def _answer(link: socket.socket, end: float) -> int | None:
    """Return the rank that has failed: the one that rank 0 names, or rank 0 if it does not answer."""
    link.settimeout(_TICK)
    text, end = "", end + LINGER_SECONDS  # longer than rank 0 waits, which knows who is missing
    while time.monotonic() < end:
        try:
            part = link.recv(_LINE_LIMIT)
        except socket.timeout:
            continue
        except OSError:
            part = b""
        text += part.decode("ascii", "replace")
        heard = _understood(text)
        if heard is not None:
            return heard[1] if heard[0] == _GONE else None
        if not part or len(text) > _LINE_LIMIT:
            break
    return 0
