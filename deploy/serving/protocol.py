"""HTTP connections: JSON responses for invalid HTTP requests, and a time limit for incomplete requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["Protocol"]

HEADER_SECONDS = 20.0
"""Maximum number of seconds from the start of a connection or its last response until the next headers are complete."""
_REASON = (
    "this is not a valid HTTP request; its request line, a header or the framing of its body is invalid or too long"
)


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The protocol of uvicorn (h11 or httptools), extended by a time limit for the headers of a request.

    uvicorn waits for headers forever, so that a few hundred idle connections exhaust the file descriptors of the
    process. The time limit of the body is implemented by the service.
    """

    _timer: asyncio.TimerHandle | None = None
    _seen: Any = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer."""
        super().connection_made(transport)
        self._seen = self.cycle
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._check)

    def _check(self) -> None:
        """Close the connection if no request has been received since the last check and none is being processed."""
        active = self.cycle is not None and not self.cycle.response_complete
        if not active and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = None if active else self.cycle
        self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid HTTP request and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": _REASON}, separators=(",", ":")).encode("utf-8")
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode("ascii") + body)
        self.transport.close()
