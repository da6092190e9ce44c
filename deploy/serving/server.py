"""Serve an exported model over HTTP: ``python deploy/serving/server.py --model_dir DIR``."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from deploy.common.interruption import exit_on_interrupt

    exit_on_interrupt()

from deploy.common.command_line import (
    Parser,
    float_in_range,
    int_in_range,
    main_guard,
    non_negative_int,
    positive_int,
    probability,
    thread_count,
)
from deploy.common.errors import UserError
from deploy.common.printable import PrintableFormatter

PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
    "PIL": "Pillow",
}
"""Modules required by the service in addition to those of the predictor, and the packages that provide them."""

logger = logging.getLogger("deploy.serving")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: an option is unknown or its value is invalid.
    """
    parser = Parser(description=__doc__)
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="folder written by tools/export_model.py")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 accepts connections from other machines"
    )
    parser.add_argument(
        "--port", type=int_in_range(0, 65535), default=8080, help="port to listen on; 0 selects a free port"
    )
    parser.add_argument("--device", type=str.upper, default="CPU", choices=("CPU", "GPU"), help="device for inference")
    parser.add_argument(
        "--cpu_threads", type=thread_count, default=None, help="number of threads for inference; all cores by default"
    )
    parser.add_argument("--max_batch", type=positive_int, default=4, help="maximum batch size")
    parser.add_argument(
        "--max_delay_ms",
        type=float_in_range(0, 60_000),
        default=10.0,
        help="maximum number of milliseconds that an image waits for others",
    )
    parser.add_argument(
        "--queue_size",
        type=non_negative_int,
        default=32,
        help="maximum number of waiting requests; further requests are answered with 503",
    )
    parser.add_argument(
        "--timeout", type=float_in_range(0.001, 86_400), default=60.0, help="maximum duration of a request in seconds"
    )
    parser.add_argument(
        "--max_bytes", type=positive_int, default=20 * 2**20, help="maximum size of an image file in bytes"
    )
    parser.add_argument(
        "--max_pixels", type=positive_int, default=40_000_000, help="maximum number of pixels of an image"
    )
    parser.add_argument(
        "--threshold", type=probability, default=None, help="minimum score; by default, that of the model"
    )
    return parser.parse_args(arguments)


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address; clients can connect as soon as the server listens on it.

    Raises:
        UserError: the address is in use or does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # it has a different meaning on other systems
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        foreign = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = (
            "--host must be an address of this machine, such as 127.0.0.1 or 0.0.0.0"
            if foreign
            else "try another --port"
        )
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}; {remedy}") from error
    return listener


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have already been accepted are completed."""
    arguments = parse()
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{package} is not installed; run: python -m pip install -r requirements-serving.txt")
    # Read by OpenCV when it is imported; a second safeguard after the check of the header.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(arguments.max_pixels))
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("[%(asctime)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    for name in ("deploy", "uvicorn"):  # not the root logger, whose level is changed when Paddle 2.6 is imported
        logging.getLogger(name).setLevel(logging.INFO)
    listener = bind(arguments.host, arguments.port)
    _serve(arguments, listener)


def _serve(arguments: argparse.Namespace, listener: socket.socket) -> None:
    import numpy as np
    import uvicorn
    from PIL import Image

    from deploy.common.extra_inputs import predict_grouped
    from deploy.python import Predictor
    from deploy.serving.app import create_app
    from deploy.serving.model_info import ModelInfo
    from deploy.serving.protocol import Protocol
    from deploy.serving.service import Service
    from deploy.serving.uploads import Limits

    threads = {} if arguments.cpu_threads is None else {"cpu_threads": arguments.cpu_threads}
    predictor = Predictor(arguments.model_dir, device=arguments.device, **threads)
    info = ModelInfo.read(arguments.model_dir)
    # The first run prepares the kernels and detects models that cannot be run before the first request.
    blank = np.zeros((*(info.target_size or (640, 640)), 3), np.uint8)
    predict_grouped(predictor, [blank], [predictor.extra_inputs.blank()])
    Image.MAX_IMAGE_PIXELS = None  # the service has its own limit
    service = Service(
        predictor=predictor,
        info=info,
        threshold=predictor.draw_threshold if arguments.threshold is None else arguments.threshold,
        limits=Limits(arguments.max_bytes, arguments.max_pixels, arguments.timeout, arguments.queue_size),
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay_ms / 1000,
    )

    class Server(uvicorn.Server):
        """Refuses new requests after the signal, including those on open connections."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.draining = True
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            logger.info("%s is served on http://%s:%d/ (press Ctrl-C to stop)", info.name, address, port)

    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=int(arguments.timeout) + 10,
        server_header=False,
    )
    # uvicorn sends the signal to itself again after a graceful shutdown; it is ignored, so that the exit status is 0.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: None)
    Server(config).run([listener])
    logger.info("all requests have been answered")


if __name__ == "__main__":
    main_guard(main)
