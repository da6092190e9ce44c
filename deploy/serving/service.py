"""Processing of a request: admission, decoding, inference and response, with limits on resources and time."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import Request, Response

from deploy.common.detections import Detections
from deploy.common.extra_inputs import ExtraInputs, predict_grouped
from deploy.serving.answers import ResponseOptions, draw_png, to_instances
from deploy.serving.batcher import Batcher, Outcome
from deploy.serving.metrics import Metrics
from deploy.serving.model_info import ModelInfo
from deploy.serving.uploads import (
    FRAMING,
    MAX_EXTRA_BYTES,
    Limits,
    Refusal,
    check_type,
    decode,
    extra_values,
    image_size,
    read_upload,
    too_large,
)

__all__ = ["PredictorLike", "Service"]

logger = logging.getLogger(__name__)

GONE = 499
"""Status in the metrics for requests whose client has disconnected."""

_LARGEST_IMAGES = 4
"""Maximum number of pixels of all decoded images in memory, as a multiple of ``max_pixels``."""
_LINGER = 2.0
"""Seconds for reading the rest of a refused body, for clients that only read the response after sending everything."""
_LAST_BATCH = 30.0
"""Maximum number of seconds to wait for a running batch during the shutdown."""

T = TypeVar("T")


class PredictorLike(Protocol):
    """The interface of :class:`deploy.python.Predictor` used by the service."""

    class_names: list[str]
    category_ids: list[int]
    has_masks: bool
    extra_inputs: ExtraInputs

    def predict(self, images: Sequence[np.ndarray], extra: Any = None) -> Sequence[Detections]:
        """Predict on a batch of images, uint8 [h, w, 3] RGB each, with the arrays of their extra inputs."""


class Service:
    """Prediction service for concurrent clients.

    Args:
        predictor: the predictor, which is only used by a single thread.
        info: properties of the model.
        threshold: minimum score for requests without a threshold.
        limits: limits of a request.
        max_batch: maximum batch size.
        max_delay: maximum number of seconds that an image waits for others.
    """

    def __init__(
        self,
        *,
        predictor: PredictorLike,
        info: ModelInfo,
        threshold: float = 0.5,
        limits: Limits = Limits(),  # noqa: B008  frozen
        max_batch: int = 4,
        max_delay: float = 0.01,
    ) -> None:
        self.predictor = predictor
        self.info = info
        self.threshold = threshold
        self.limits = limits
        self.max_batch = max_batch
        self.draining = False
        self.metrics = Metrics(max_batch, lambda: self.batcher.waiting)
        predict = partial(predict_grouped, predictor)
        self.batcher = Batcher(predict, info.input_size, max_batch, max_delay, self.metrics.batch)
        room = FRAMING + (MAX_EXTRA_BYTES if len(predictor.extra_inputs) else 0)
        self._largest_body = limits.max_bytes + room
        self._pool = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1)), thread_name_prefix="images")
        # Both are only accessed by the thread of the event loop.
        self._under_way = 0
        self._pixels = 0

    def close(self) -> None:
        """Complete all accepted requests and end the threads."""
        self.draining = True
        self.batcher.close(_LAST_BATCH)
        self._pool.shutdown()

    async def predict(self, request: Request) -> Response:
        """Respond to a prediction request; errors are returned as JSON, ``{"error": reason}``."""
        body = _Body(request)
        try:
            self._admit()
            try:
                return await self._answer(request, body)
            finally:
                self._under_way -= 1
                self.metrics.under_way.set(self._under_way)
        except Refusal as refusal:
            if refusal.status != 408:
                await body.linger()
            return error_response(refusal.status, refusal.reason, refusal.headers)

    def _admit(self) -> None:
        if self.draining:
            raise Refusal(503, "the service is shutting down", {"Retry-After": "10", "Connection": "close"})
        if self._under_way >= self.limits.queue_size + self.max_batch:
            raise self._busy(f"{self._under_way} requests are being processed")
        self._under_way += 1
        self.metrics.under_way.set(self._under_way)

    def _busy(self, why: str) -> Refusal:
        seconds = min(60, max(1, math.ceil(self.batcher.seconds_left(self._under_way))))
        return Refusal(503, f"the service is busy: {why}", {"Retry-After": str(seconds)})

    async def _answer(self, request: Request, body: _Body) -> Response:
        start = monotonic()
        end = start + self.limits.timeout
        headers = request.headers
        options = ResponseOptions.read(
            request.query_params.multi_items(), request.url.path, headers.get("accept", ""), self.threshold
        )
        content_type, max_bytes = headers.get("content-type", ""), self.limits.max_bytes
        check_type(content_type)
        sent = await self._within(
            end, 408, "the image took too long to arrive", body.read(self._largest_body, max_bytes)
        )
        read = monotonic()
        data, extra = await self._in_pool(read_upload, sent, content_type, max_bytes)
        del sent
        values = await self._in_pool(extra_values, extra, self.predictor.extra_inputs)
        height, width = await self._in_pool(image_size, data, self.limits.max_pixels)
        pixels = height * width
        if self._pixels and self._pixels + pixels > _LARGEST_IMAGES * self.limits.max_pixels:
            raise self._busy("its memory for images is exhausted")
        self._pixels += pixels
        try:
            image = await self._in_pool(decode, data)
            del data
            decoded = monotonic()
            outcome = await self._compute(image, values, body, end)
            computed = monotonic()
            detections = outcome.detections.above(options.threshold)
            if options.png:
                return Response(await self._in_pool(draw_png, detections, image), media_type="image/png")
            instances = await self._in_pool(to_instances, detections, options.masks)
        finally:
            self._pixels -= pixels
        answer = {
            "model": self.info.name,
            "image": {"width": image.shape[1], "height": image.shape[0]},
            "threshold": options.threshold,
            "instances": instances,
            "timings": {
                "receive_ms": _milliseconds(read - start),
                "decode_ms": _milliseconds(decoded - read),
                "queue_ms": _milliseconds(outcome.waited),
                "inference_ms": _milliseconds(outcome.computed),
                "encode_ms": _milliseconds(monotonic() - computed),
                "total_ms": _milliseconds(monotonic() - start),
                "batch_size": outcome.batch,
            },
        }
        return json_response(200, answer)

    async def _compute(self, image: np.ndarray, values: Mapping[str, np.ndarray], body: _Body, end: float) -> Outcome:
        """Wait for the batch of the image until ``end``, or until the client disconnects."""
        job = self.batcher.submit(image, values)
        answer: asyncio.Future[Any] = asyncio.wrap_future(job.future)
        disconnected: asyncio.Future[Any] = asyncio.ensure_future(body.disconnected())
        try:
            left = max(0.0, end - monotonic())
            await asyncio.wait({answer, disconnected}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                outcome: Outcome = answer.result()
                return outcome
            if disconnected.done():
                raise Refusal(GONE, "the client has disconnected")
            raise Refusal(504, f"the inference was not completed within {self.limits.timeout:g} seconds")
        except Refusal:
            raise
        except Exception as error:  # raised by the predictor and logged by the batcher with its traceback
            reason = f"inference failed ({type(error).__name__}); see the log of the service for details"
            raise Refusal(500, reason) from error
        finally:
            disconnected.cancel()
            if not answer.done():
                answer.cancel()
                self.batcher.discard(job)

    async def _within(self, end: float, status: int, reason: str, work: Any) -> Any:
        try:
            return await asyncio.wait_for(work, max(0.0, end - monotonic()))
        except asyncio.TimeoutError as error:
            raise Refusal(status, f"{reason} (limit: {self.limits.timeout:g} seconds)") from error

    async def _in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


class _Body:
    """The body of a request while it is received."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._ended = False

    async def _chunk(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise Refusal(GONE, "the client has disconnected")
        self._ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def read(self, limit: int, max_bytes: int) -> bytes:
        """Return the whole body.

        Args:
            limit: of the body's size.
            max_bytes: limit of the image file's size, for the message.

        Raises:
            Refusal: 413 if it is too large, 499 if the client disconnects.
        """
        announced = self._request.headers.get("content-length", "0")
        if int(announced) > limit:
            raise too_large(max_bytes)
        data = bytearray()
        while not self._ended:
            data += await self._chunk()
            if len(data) > limit:
                raise too_large(max_bytes)
        return bytes(data)

    async def disconnected(self) -> None:
        """Return when the client disconnects; must be called after the whole body has been read."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    async def linger(self) -> None:
        """Read and discard the rest of a refused body for a limited time.

        Closing a connection with unread data resets it, and many clients do not receive the response in this case.
        """
        if self._request.headers.get("expect", "").lower() == "100-continue":
            return  # the client waits for a confirmation before it sends the body

        async def discard() -> None:
            while not self._ended:
                await self._chunk()

        with suppress(asyncio.TimeoutError, Refusal):
            await asyncio.wait_for(discard(), _LINGER)


def json_response(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; non-ASCII letters are not escaped."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8"), status, headers, "application/json")


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response for an error."""
    return json_response(status, {"error": reason}, headers)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
