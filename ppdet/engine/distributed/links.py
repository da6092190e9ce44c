"""Connections between rank 0 and every other rank, over which the processes exchange messages about their state."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress

from ppdet.engine.distributed.env import gather_objects, rank, world_size

__all__ = ["POLL_SECONDS", "LINE_LIMIT", "Link", "LinkError", "connect_links"]

CONNECT_SECONDS = 20.0
POLL_SECONDS = 1.0
"""Longest time that `Link.receive` waits."""
LINE_LIMIT = 2000
"""Characters of a message; a line is longer by a few words at most."""


class LinkError(Exception):
    """Some process could not be connected."""


class Link:
    """A connection over which both ends send lines of text.

    Args:
        connection: a connected socket. The operating system closes it when the other node has not responded for half a
            minute (TCP keep-alive).
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._received = b""
        connection.settimeout(POLL_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):  # macOS lacks some of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, line: str) -> None:
        """Send a line; nothing happens if the other end is closed or does not read."""
        with self._sending, suppress(OSError):
            self._connection.sendall(line.encode("utf-8") + b"\n")

    def receive(self) -> list[str] | None:
        """Return the lines that have arrived, or None once the other end is closed.

        Waits up to `POLL_SECONDS`, and returns an empty list if no complete line has arrived by then.
        """
        try:
            part = self._connection.recv(8 * LINE_LIMIT)
        except socket.timeout:
            return []
        except OSError:  # reset, or the node has not responded for longer than the system waits
            part = b""
        *lines, self._received = (self._received + part).split(b"\n")
        if lines:
            return [line.decode("utf-8", "replace") for line in lines]
        return [] if part and len(self._received) <= 8 * LINE_LIMIT else None

    def finish(self) -> None:
        """Close this end for sending: the other end receives what was sent, then None."""
        with suppress(OSError):  # the other end may be closed already
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection; a thread that is waiting in `receive` returns."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def forget(self) -> None:
        """Close this process's copy of the connection, which stays open elsewhere (after a fork)."""
        self._connection.close()


def connect_links() -> dict[int, Link]:
    """Connect rank 0 with every other rank; all processes must call this together.

    Returns:
        Links by rank: to all others on rank 0, to rank 0 alone on the others.

    Raises:
        LinkError: on all processes, if one of them could not connect.
    """
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1").rpartition(":")[0]
    server = _listening(host) if rank() == 0 else None
    address = (host, server.getsockname()[1], secrets.token_hex(16)) if server else None
    host, port, token = gather_objects(address)[0]
    connections: dict[int, socket.socket] = {}
    problem = ""
    try:
        connections = _accept_all(server, token) if server else {0: _connect(host, port, token)}
    except OSError as error:
        problem = f"rank {rank()}: {error}"
    finally:
        if server:
            server.close()
    problems = [text for text in gather_objects(problem) if text]
    if problems:
        for connection in connections.values():
            connection.close()
        raise LinkError(f"no connection to {host} ({problems[0]})")
    return {peer: Link(connection) for peer, connection in connections.items()}


def _listening(host: str) -> socket.socket:
    try:
        return socket.create_server((host, 0))
    except OSError:  # in a container, the name by which others reach this node may not be a local address
        return socket.create_server(("", 0))


def _accept_all(server: socket.socket, token: str) -> dict[int, socket.socket]:
    """Accept the connections of all other ranks; connections without the token are closed."""
    connections: dict[int, socket.socket] = {}
    end = time.monotonic() + CONNECT_SECONDS
    while len(connections) < world_size() - 1:
        server.settimeout(max(0.01, end - time.monotonic()))
        connection, _ = server.accept()
        connection.settimeout(CONNECT_SECONDS)
        word, _, peer = _first_line(connection).partition(" ")
        if secrets.compare_digest(word.encode(), token.encode()) and peer.isdigit():
            connections[int(peer)] = connection
        else:
            connection.close()
    return connections


def _connect(host: str, port: int, token: str) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    connection.sendall(f"{token} {rank()}\n".encode())
    return connection


def _first_line(connection: socket.socket) -> str:
    """Receive a line; return an empty one if the connection ends before it is complete."""
    received = b""
    while b"\n" not in received:
        part = connection.recv(1)  # no more than the line: what follows is for `Link.receive`
        if not part or len(received) > LINE_LIMIT:
            return ""
        received += part
    return received.decode("utf-8", "replace").rstrip("\n")
