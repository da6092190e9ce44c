"""Command line of the server, and the server process with a small exported model."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from serving_fakes import Client, picture, png, wait_until

from deploy.common.errors import UserError
from deploy.serving import server
from deploy.serving.model_info import ModelInfo
from deploy.serving.server import bind, parse

paddle = pytest.importorskip("paddle", reason="PaddlePaddle is not installed")

PREPROCESS = [
    {"type": "Resize", "target_size": [48, 64], "keep_ratio": True, "interp": 1},
    {"type": "NormalizeImage", "is_scale": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"type": "Permute"},
    {"type": "PadStride", "stride": 32},
]


class TwoBoxes(paddle.nn.Layer):
    """Create a graph with the inputs and outputs of an exported model and two objects at fixed positions.

    Class 0 with score 0.875 in the middle half of the image, class 1 with score 0.25 everywhere; whole masks.
    """

    def __init__(self) -> None:
        super().__init__()
        ones = paddle.nn.initializer.Constant(1.0)
        self.one = self.create_parameter([1], default_initializer=ones)

    def forward(self, image: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor) -> tuple:
        nothing = image.mean(axis=[1, 2, 3], keepdim=False).unsqueeze(1) * 0 * self.one
        size = im_shape / scale_factor + nothing
        h, w = size[:, 0:1], size[:, 1:2]
        middle = paddle.concat([nothing, nothing + 0.875, w * 0.25, h * 0.25, w * 0.75, h * 0.75], 1)
        whole = paddle.concat([nothing + 1, nothing + 0.25, nothing, nothing, w, h], 1)
        rows = paddle.stack([middle, whole], 1).reshape([-1, 6])
        masks = (rows[:, 0:1] * 0 + 1).unsqueeze(2).tile([1, 28, 28])
        return rows, (nothing[:, 0] + 2).astype("int32"), masks


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "two_boxes"
    spec = paddle.static.InputSpec
    inputs = [
        spec([None, 3, None, None], "float32", "image"),
        spec([None, 2], "float32", "im_shape"),
        spec([None, 2], "float32", "scale_factor"),
    ]
    paddle.jit.save(TwoBoxes(), str(folder / "model"), input_spec=inputs)
    config = {
        "mode": "paddle",
        "arch": "RCNN",
        "draw_threshold": 0.5,
        "mask": True,
        "Preprocess": PREPROCESS,
        "label_list": ["kite", "sky"],
        "category_ids": [38, 187],
    }
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


class Process:
    """The server process."""

    def __init__(self, root: Path, *arguments: str) -> None:
        command = [sys.executable, "deploy/serving/server.py", *arguments]
        self.process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._new.put(line)
        self._new.put("")

    def address(self) -> str:
        """Wait for the log line with the address and return the address."""
        while True:
            line = self._new.get(timeout=120)
            assert line, "".join(self.lines)
            if " is served on " in line:
                return line.partition(" is served on ")[2].split()[0]

    def end(self) -> int:
        status = self.process.wait(60)
        self._reader.join(60)
        return status


@pytest.fixture
def start(repo_root: Path) -> Iterator[object]:
    started: list[Process] = []

    def begin(*arguments: str) -> Process:
        started.append(Process(repo_root, *arguments))
        return started[-1]

    yield begin
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
            process.end()


def test_from_start_to_end(start, model_dir: Path) -> None:
    """Predictions, images and metrics; a request that waits during SIGTERM is answered, and the exit status is 0."""
    process = start("--model_dir", str(model_dir), "--port", "0", "--max_delay_ms", "4000", "--max_batch", "2")
    address = process.address()
    assert address.startswith("http://127.0.0.1:")
    client = Client(int(address.rstrip("/").rpartition(":")[2]))
    assert client.get("/health").json() == {"status": "ready", "model": "two_boxes"}
    image = picture(40, 80)
    with ThreadPoolExecutor() as pool:  # two images of the same shape fill a batch
        drawn, answered = pool.map(lambda query: client.predict(png(image), query), ["format=png", "threshold=0.2"])
    instances = answered.json()["instances"]
    assert [(one["class"], one["class_id"], one["score"], one["box"]) for one in instances] == [
        ("kite", 38, 0.875, [20.0, 10.0, 60.0, 30.0]),
        ("sky", 187, 0.25, [0.0, 0.0, 80.0, 40.0]),
    ]
    assert instances[0]["polygons"] == [[20.0, 10.0, 20.0, 29.0, 59.0, 29.0, 59.0, 10.0]]
    assert answered.json()["timings"]["batch_size"] == 2
    found = cv2.imdecode(np.frombuffer(drawn.body, np.uint8), cv2.IMREAD_COLOR)
    assert found.shape == (40, 80, 3)
    assert (found[12:28, 22:58] != cv2.cvtColor(image, cv2.COLOR_RGB2BGR)[12:28, 22:58]).any(axis=2).mean() > 0.9
    assert client.metric('htc_requests_total{path="/predict",status="200"}') == 2
    assert client.metric("htc_images_total") == 2

    last = client.later(png(image))
    wait_until(lambda: client.metric("htc_queue_length") == 1)  # it waits for another image for four seconds
    process.process.send_signal(signal.SIGTERM)
    assert last.result().json()["instances"][0]["box"] == [20.0, 10.0, 60.0, 30.0]
    assert process.end() == 0
    assert "all requests have been answered" in process.lines[-1]
    with pytest.raises(ConnectionRefusedError):
        client.get("/health")


def test_ctrl_c_ends_it_in_order(start, model_dir: Path) -> None:
    process = start("--model_dir", str(model_dir), "--port", "0")
    process.address()
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 0
    assert "Traceback" not in "".join(process.lines)


def test_mistakes_are_one_line(start, tmp_path: Path) -> None:
    missing = start("--model_dir", str(tmp_path / "none"), "--port", "0")
    assert missing.end() == 1
    assert missing.lines == [
        f"error: the folder {tmp_path / 'none'} does not exist; create it with tools/export_model.py\n"
    ]


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}: .*another --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(
        UserError, match=f"cannot listen on {host} port 0: .*; --host must be an address of this machine"
    ):
        bind(host, 0)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "--model_dir"),
        (["--max_batch", "0"], "--max_batch: expected a whole number of 1 or more, got '0'"),
        (["--threshold", "1.5"], "--threshold: expected a number from 0 to 1, got '1.5'"),
        (["--timeout", "inf"], "--timeout: expected a number from 0.001 to 86400, got 'inf'"),
        (["--max_delay_ms", "nan"], "--max_delay_ms: expected a number from 0 to 60000, got 'nan'"),
        (["--port", "http"], "--port: expected a whole number from 0 to 65535, got 'http'"),
    ],
)
def test_wrong_command_lines(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(arguments and ["--model_dir", "x", *arguments])
    assert complaint in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["server.py", "--model_dir", "x"])
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(UserError, match="uvicorn is not installed; run: .*requirements-serving.txt"):
        server.main()


def test_only_this_machine_is_served_by_default() -> None:
    assert parse(["--model_dir", "x"]).host == "127.0.0.1"


def test_input_sizes(model_dir: Path, tmp_path: Path) -> None:
    info = ModelInfo.read(model_dir)
    assert info == ModelInfo("two_boxes", (48, 64), True, 32)
    # 80 x 100 is scaled by 0.6 to 48 x 60 and padded to multiples of 32.
    assert info.input_size(80, 100) == (64, 64)
    assert info.input_size(10, 100) == (32, 64)
    assert ModelInfo("x", (50, 70), False, 1).input_size(10, 100) == (50, 70)
    assert ModelInfo("x").input_size(10, 100) == (10, 100)
    with pytest.raises(UserError, match="cannot read"):
        ModelInfo.read(tmp_path)
