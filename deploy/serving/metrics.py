"""What the service counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metered", "Metrics"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATHS = ("/", "/predict", "/predict.png", "/health", "/metrics", "/model")

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one service.

    Args:
        max_batch: largest size of a batch.
        waiting: returns the number of images that wait.
    """

    def __init__(self, max_batch: int, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        register: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("htc_requests", "Requests answered", ["path", "status"], **register)
        self.latency = Histogram(
            "htc_request_seconds", "From a request's begin to its answer's end", ["path"], buckets=_SECONDS, **register
        )
        self.images = Counter("htc_images", "Images computed", **register)
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size < max_batch]
        self.batches = Histogram("htc_batch_size", "Images computed together", buckets=[*sizes, max_batch], **register)
        self.inference = Histogram("htc_batch_seconds", "Time of a batch", buckets=_SECONDS, **register)
        queue = Gauge("htc_queue_length", "Decoded images that wait for a batch", **register)
        queue.set_function(waiting)
        self.under_way = Gauge("htc_requests_under_way", "Predictions accepted and not answered yet", **register)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.images.inc(size)
        self.batches.observe(size)
        self.inference.observe(seconds)

    def text(self) -> bytes:
        """Everything in the text format."""
        return generate_latest(self.registry)


class Metered:
    """ASGI application that counts the requests to another one."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on and count its answer; unknown paths share a label, so that nobody can grow the list."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = "500"  # unless an answer begins
        begin = monotonic()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.latency.labels(path).observe(monotonic() - begin)
