"""A service in a thread, a predictor that is paused and resumed by the test, and a client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

for module, package in (
    ("fastapi", "fastapi"),
    ("uvicorn", "uvicorn"),
    ("python_multipart", "python-multipart"),
    ("prometheus_client", "prometheus-client"),
):
    pytest.importorskip(module, reason=f"{package} is not installed (requirements-serving.txt)")

import uvicorn  # noqa: E402

from deploy.common.extra_inputs import ExtraInput, ExtraInputs  # noqa: E402
from deploy.python import Detections  # noqa: E402
from deploy.serving.app import create_app  # noqa: E402
from deploy.serving.model_info import ModelInfo  # noqa: E402
from deploy.serving.protocol import Protocol  # noqa: E402
from deploy.serving.server import bind  # noqa: E402
from deploy.serving.service import Service  # noqa: E402
from tests.deploy.box_detections import box_detections  # noqa: E402

PATIENCE = 20.0
"""Maximum number of seconds that a test waits for an event."""

NAMES = ["ball", "<b>cup</b>", "柱"]
IDS = [3, 17, 90]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is fulfilled by another thread."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def picture(height: int = 40, width: int = 60, level: int = 0) -> np.ndarray:
    """Create an RGB image whose upper left pixels are ``level`` and the others a pattern."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 3 % 256, y * 5 % 256, (x + y) % 256], 2).astype(np.uint8)
    image[:8, :8] = level
    return image


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def rows_of(image: np.ndarray) -> np.ndarray:
    """Return the three boxes of the fake predictor; the score of the first one identifies the image."""
    height, width = image.shape[:2]
    level = float(image[0, 0, 0])
    return np.array(
        [
            [0, 0.7 + level / 1000, width * 0.5, height * 0.25, width, height * 0.75],
            [1, 0.64, 0, 0, width * 0.25, height],
            [2, 0.25, 0, 0, width, height],
        ],
        np.float32,
    )


class FakePredictor:
    """Returns the same three objects for every image.

    Args:
        held: each call of ``predict`` waits for one `release`.
        has_masks: whether there are masks; they fill their boxes.
    """

    class_names = NAMES
    category_ids = IDS
    draw_threshold = 0.5
    extra_inputs = ExtraInputs()

    def __init__(self, held: bool = False, has_masks: bool = True) -> None:
        self.has_masks = has_masks
        self.batches: list[list[int]] = []
        """Levels of the images in each call."""
        self.error: Exception | None = None
        self.began = threading.Semaphore(0)
        self._go = threading.Semaphore(0) if held else None

    def release(self, calls: int = 1) -> None:
        """Resume a number of calls of ``predict``."""
        assert self._go is not None
        for _ in range(calls):
            self._go.release()

    def free(self) -> None:
        """Resume all current and future calls."""
        if self._go is not None:
            self.release(1000)

    def wait_for_call(self) -> None:
        """Wait until another call of ``predict`` has started."""
        assert self.began.acquire(timeout=PATIENCE)

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.batches.append([int(image[0, 0, 0]) for image in images])
        self.began.release()
        if self._go is not None:
            assert self._go.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error
        return [self.found(image) for image in images]

    def found(self, image: np.ndarray) -> Detections:
        masks = np.ones((3, 28, 28), np.float32) if self.has_masks else None
        return box_detections(rows_of(image), masks, (image.shape[0], image.shape[1]), NAMES, IDS)


class PromptedPredictor(FakePredictor):
    """Requires a prompt; the first detection's score is its sum."""

    extra_inputs = ExtraInputs([ExtraInput("prompt", ("B", None, 2))])

    def predict(self, images: Any, extra: Any = None) -> Any:
        arrays = self.extra_inputs.of_batch(extra, len(images))["prompt"]
        self.batches.append(list(arrays.shape))
        results = []
        for image, prompt in zip(images, arrays):
            rows = rows_of(image)
            rows[0, 1] = prompt.sum()
            results.append(box_detections(rows, None, image.shape[:2], NAMES, IDS))
        return results


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Error message of the response."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json()) == ["error"]
        return str(self.json()["error"])


class Client:
    """Client for a service on this machine; uses one connection per request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._pool = ThreadPoolExecutor(32)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def predict(self, body: bytes, query: str = "", path: str = "/predict", **headers: str) -> Reply:
        """Send an image as the request body; ``headers`` are given with _ instead of -."""
        named = {"Content-Type": "image/png", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.ask("POST", f"{path}?{query}" if query else path, body, named)

    def later(self, body: bytes, query: str = "") -> Future[Reply]:
        """Call `predict` in a thread."""
        return self._pool.submit(self.predict, body, query)

    def metric(self, name: str) -> float:
        """Return the value of a line of /metrics."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no {name} in the metrics")


def form(*parts: tuple[str, bytes], filename: str = "picture.png") -> tuple[bytes, dict[str, str]]:
    """Create a multipart body with named parts, and its headers."""
    boundary = "----a-boundary"
    body = b""
    for name, data in parts:
        disposition = f'form-data; name="{name}"; filename="{filename}"'
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: image/png\r\n\r\n".encode()
        body += data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Running:
    """A service on a free port in a thread."""

    def __init__(self, predictor: Any, **options: Any) -> None:
        self.predictor = predictor
        self.service = Service(predictor=predictor, info=ModelInfo("fake", (32, 48), True, 16), **options)
        listener = bind("127.0.0.1", 0)
        self.server = uvicorn.Server(uvicorn.Config(create_app(self.service), http=Protocol, log_config=None))
        self.client = Client(listener.getsockname()[1])
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        wait_until(lambda: self.server.started)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.client.port}/"

    def stop(self) -> None:
        if isinstance(self.predictor, FakePredictor):
            self.predictor.free()
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
