"""The connection below the service: requests that are no HTTP get an answer in JSON, too, and silence ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["Protocol"]

HEADER_SECONDS = 20.0
"""Most seconds from a connection's beginning, or from its last answer, until a request's headers are complete."""
_REASON = "this is no valid HTTP request: its first line, a header or the framing of its body is wrong, or too long"


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol (h11 or httptools), with an end to connections that begin a request and never finish it.

    uvicorn waits for headers without a limit, so that a few hundred silent connections use up the process's file
    descriptors. The body has the service's own limit of time.
    """

    _watch: asyncio.TimerHandle | None = None
    _seen: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to watch."""
        super().connection_made(transport)
        self._seen = self.cycle
        self._watch_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """End watching."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _watch_on(self) -> None:
        self._watch = self.loop.call_later(HEADER_SECONDS, self._look)

    def _look(self) -> None:
        """Close the connection if no request has come since the last look, and none is under way."""
        under_way = self.cycle is not None and not self.cycle.response_complete
        if not under_way and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = None if under_way else self.cycle
        self._watch_on()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or broken within, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": _REASON}, separators=(",", ":")).encode("utf-8")
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode("ascii") + body)
        self.transport.close()
