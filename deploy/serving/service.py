"""One request from its bytes to its answer: admission, decoding, the batch, the answer; within limits and time."""

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
from deploy.serving.answers import Wanted, draw_png, to_instances
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
"""Status, in the metrics alone, of a request whose client went away."""

_LARGEST_IMAGES = 4
"""Decoded pictures that are held at a time have at most this many times ``max_pixels``."""
_LINGER = 2.0
"""Seconds that the rest of a refused body is read, for a client that reads no answer before it has sent all."""
_LAST_BATCH = 30.0
"""Seconds that a batch may still run at the end, if nobody waits for it any longer."""

T = TypeVar("T")


class PredictorLike(Protocol):
    """The part of :class:`deploy.python.Predictor` that a service needs."""

    class_names: list[str]
    category_ids: list[int]
    has_masks: bool
    extra_inputs: ExtraInputs

    def predict(self, images: Sequence[np.ndarray], extra: Any = None) -> Sequence[Detections]:
        """Detect on one batch of images, uint8 [h, w, 3] RGB each, with the arrays of their extra inputs."""


class Service:
    """Predictions for many clients at once.

    Args:
        predictor: used by one thread alone.
        info: about the model.
        threshold: lowest score where the client names none.
        limits: of a request.
        max_batch: most images computed together.
        max_delay: seconds that an image waits for company.
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
        # Both belong to the event loop's thread.
        self._under_way = 0
        self._pixels = 0

    def close(self) -> None:
        """Finish what was accepted and end the threads."""
        self.draining = True
        self.batcher.close(_LAST_BATCH)
        self._pool.shutdown()

    async def predict(self, request: Request) -> Response:
        """Answer a prediction's request; errors are JSON, ``{"error": reason}``."""
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
            raise self._busy(f"{self._under_way} requests are under way")
        self._under_way += 1
        self.metrics.under_way.set(self._under_way)

    def _busy(self, why: str) -> Refusal:
        seconds = min(60, max(1, math.ceil(self.batcher.seconds_left(self._under_way))))
        return Refusal(503, f"the service is busy: {why}", {"Retry-After": str(seconds)})

    async def _answer(self, request: Request, body: _Body) -> Response:
        begin = monotonic()
        end = begin + self.limits.timeout
        headers = request.headers
        wanted = Wanted.read(
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
            raise self._busy("its memory for pictures is used up")
        self._pixels += pixels
        try:
            image = await self._in_pool(decode, data)
            del data
            decoded = monotonic()
            outcome = await self._compute(image, values, body, end)
            computed = monotonic()
            found = outcome.found.above(wanted.threshold)
            if wanted.png:
                return Response(await self._in_pool(draw_png, found, image), media_type="image/png")
            instances = await self._in_pool(to_instances, found, wanted.masks)
        finally:
            self._pixels -= pixels
        answer = {
            "model": self.info.name,
            "image": {"width": image.shape[1], "height": image.shape[0]},
            "threshold": wanted.threshold,
            "instances": instances,
            "timings": {
                "receive_ms": _milliseconds(read - begin),
                "decode_ms": _milliseconds(decoded - read),
                "queue_ms": _milliseconds(outcome.waited),
                "inference_ms": _milliseconds(outcome.computed),
                "encode_ms": _milliseconds(monotonic() - computed),
                "total_ms": _milliseconds(monotonic() - begin),
                "batch_size": outcome.batch,
            },
        }
        return json_response(200, answer)

    async def _compute(self, image: np.ndarray, values: Mapping[str, np.ndarray], body: _Body, end: float) -> Outcome:
        """Wait for the image's batch, but neither beyond ``end`` nor for a client that is gone."""
        job = self.batcher.submit(image, values)
        answer: asyncio.Future[Any] = asyncio.wrap_future(job.future)
        gone: asyncio.Future[Any] = asyncio.ensure_future(body.disconnected())
        try:
            left = max(0.0, end - monotonic())
            await asyncio.wait({answer, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                outcome: Outcome = answer.result()
                return outcome
            if gone.done():
                raise Refusal(GONE, "the client is gone")
            raise Refusal(504, f"no answer within {self.limits.timeout:g} seconds")
        except Refusal:
            raise
        except Exception as error:  # the predictor's, logged by the batcher with its traceback
            raise Refusal(500, f"inference failed ({type(error).__name__}); the service's log says more") from error
        finally:
            gone.cancel()
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
    """A request's body as it comes in."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._ended = False

    async def _chunk(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise Refusal(GONE, "the client is gone")
        self._ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def read(self, limit: int, max_bytes: int) -> bytes:
        """Return the whole body.

        Args:
            limit: of the body's size.
            max_bytes: limit of the image file's size, for the message.

        Raises:
            Refusal: 413, it is too large; 499, the client went away.
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
        """Return when the client goes away; to be called after the whole body was read."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    async def linger(self) -> None:
        """Read and forget the rest of a body that was refused, for a while.

        Closing a connection with unread data resets it, and many clients lose the answer then.
        """
        if self._request.headers.get("expect", "").lower() == "100-continue":
            return  # the client waits for our word before it sends

        async def forget() -> None:
            while not self._ended:
                await self._chunk()

        with suppress(asyncio.TimeoutError, Refusal):
            await asyncio.wait_for(forget(), _LINGER)


def json_response(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    """Return JSON; names of classes in their own script."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8"), status, headers, "application/json")


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    return json_response(status, {"error": reason}, headers)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
