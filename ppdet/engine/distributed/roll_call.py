"""A process that ends before it has joined the others ends them, too.

Paddle's own way of joining waits for a quarter of an hour for one that never comes, deaf to everything, and does not
say for which. So all meet beforehand at rank 0's own endpoint, which Paddle does not use: they go on together, one that
fails says so on its way out, and whoever is missing in the end is named.

This module needs no Paddle, so that a tool can begin with ``announce_failure``.
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
"""How long a process that fails tries to say so: the others may not have come so far."""

_TICK = 0.5
_LONGEST = 200
_HERE, _GONE = "here", "gone"

_is_past = False
"""The roll call has been held here, or is not needed."""


def _rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def _endpoints() -> list[tuple[str, int]]:
    """Addresses of the ranks; empty without several of them."""
    texts = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    found = [(host, int(port)) for host, _, port in (text.rpartition(":") for text in texts) if port.isdigit()]
    return found if len(found) > 1 else []


def announce_failure() -> None:
    """From here on, a process of several that ends before the roll call tells the others."""
    if _endpoints():
        atexit.register(_tell)


def roll_call(seconds: float) -> None:
    """Wait until all processes are here.

    Args:
        seconds: how long; 0 leaves joining to Paddle alone.

    Raises:
        UserError: one has failed, or does not come.
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
    """Say that this process has failed; runs at its end."""
    if _is_past:
        return
    end = time.monotonic() + LINGER_SECONDS
    with suppress(OSError, _MissingError, UserError):  # nobody to be told, or no way
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
    """A line that processes of the same job understand, and hardly anything else says by accident."""
    return f"ppdet {zlib.crc32(os.environ.get('PADDLE_TRAINER_ENDPOINTS', '').encode()):08x} {kind} {rank}"


def _understood(text: str) -> tuple[str, int] | None:
    """(kind, rank) of a whole line of this job."""
    line, newline, _ = text.partition("\n")
    parts = line.split(" ")
    if not newline or len(parts) != 4 or not parts[3].isdigit() or line != _word(parts[2], int(parts[3])):
        return None
    return parts[2], int(parts[3])


class _Listener:
    """Rank 0's end."""

    def __init__(self) -> None:
        host, port = _endpoints()[0]
        try:
            self._server = socket.create_server((host, port))
        except OSError:  # the name the others know this node by is not an address of its own (containers)
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
        """Listen until all others have reported, and tell them to go on or who has failed, which is returned.

        Args:
            end: when the time is over, by the monotonic clock.
            gone: who is known to have failed.

        Raises:
            _MissingError: not all have reported, and none has failed.
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
            with suppress(OSError):  # it has ended, and has no more questions
                link.sendall(line.encode() + b"\n")

    def _accept(self) -> None:
        link, _ = self._server.accept()
        link.settimeout(_TICK)
        self._texts[link] = ""

    def _receive(self, link: socket.socket) -> int | None:
        """Return the rank that says it has failed."""
        try:
            part = link.recv(_LONGEST)
        except OSError:
            part = b""
        self._texts[link] += part.decode("ascii", "replace")
        heard = _understood(self._texts[link])
        if heard is not None:
            self._seen.add(heard[1])
        if not part or len(self._texts[link]) > _LONGEST:
            del self._texts[link]
            link.close()
        return heard[1] if heard is not None and heard[0] == _GONE else None


def _report(kind: str, end: float) -> int | None:
    """Report to rank 0, which may not be there yet; return who has failed, None if all are here.

    Args:
        kind: what to say.
        end: when to give up.

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
    """Return who has failed by rank 0's word, or by its silence."""
    link.settimeout(_TICK)
    text, end = "", end + LINGER_SECONDS  # rank 0, which knows who is missing, speaks first
    while time.monotonic() < end:
        try:
            part = link.recv(_LONGEST)
        except socket.timeout:
            continue
        except OSError:
            part = b""
        text += part.decode("ascii", "replace")
        heard = _understood(text)
        if heard is not None:
            return heard[1] if heard[0] == _GONE else None
        if not part or len(text) > _LONGEST:
            break
    return 0
