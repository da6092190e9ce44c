"""Metrics of the service in the Prometheus text format."""

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
    """Metrics of a service.

    Args:
        max_batch: maximum batch size.
        waiting: returns the number of waiting images.
    """

    def __init__(self, max_batch: int, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        register: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("htc_requests", "Number of completed requests", ["path", "status"], **register)
        self.latency = Histogram(
            "htc_request_seconds",
            "Time from the start of a request to the end of its response",
            ["path"],
            buckets=_SECONDS,
            **register,
        )
        self.images = Counter("htc_images", "Number of processed images", **register)
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size < max_batch]
        self.batches = Histogram("htc_batch_size", "Batch size", buckets=[*sizes, max_batch], **register)
        self.inference = Histogram("htc_batch_seconds", "Inference time of a batch", buckets=_SECONDS, **register)
        queue = Gauge("htc_queue_length", "Decoded images waiting for a batch", **register)
        queue.set_function(waiting)
        self.under_way = Gauge(
            "htc_requests_under_way", "Predictions that have been accepted but not answered yet", **register
        )

    def batch(self, size: int, seconds: float) -> None:
        """Record a batch."""
        self.images.inc(size)
        self.batches.observe(size)
        self.inference.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)


class Metered:
    """ASGI middleware that records requests."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward a request and record its response; unknown paths share a label to limit the number of labels."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        status = "500"  # if no response is started
        start = monotonic()

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, record)
        finally:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.latency.labels(path).observe(monotonic() - start)
