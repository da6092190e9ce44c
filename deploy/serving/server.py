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
"""Modules that the service needs besides the predictor's, and the packages that have them."""

logger = logging.getLogger("deploy.serving")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: an unknown option or an impossible value.
    """
    parser = Parser(description=__doc__)
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="folder that tools/export_model.py wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: everybody can connect")
    parser.add_argument("--port", type=int_in_range(0, 65535), default=8080, help="0: any free one")
    parser.add_argument("--device", type=str.upper, default="CPU", choices=("CPU", "GPU"), help="where to compute")
    parser.add_argument("--cpu_threads", type=thread_count, default=None, help="of the mathematics, by default all")
    parser.add_argument("--max_batch", type=positive_int, default=4, help="most images computed together")
    parser.add_argument(
        "--max_delay_ms",
        type=float_in_range(0, 60_000),
        default=10.0,
        help="milliseconds that an image waits for company",
    )
    parser.add_argument(
        "--queue_size", type=non_negative_int, default=32, help="requests that may wait; more are answered with 503"
    )
    parser.add_argument(
        "--timeout", type=float_in_range(0.001, 86_400), default=60.0, help="seconds that a request may take"
    )
    parser.add_argument("--max_bytes", type=positive_int, default=20 * 2**20, help="size of an image file")
    parser.add_argument("--max_pixels", type=positive_int, default=40_000_000, help="height x width of an image")
    parser.add_argument("--threshold", type=probability, default=None, help="lowest score, by default the model's")
    return parser.parse_args(arguments)


def bind(host: str, port: int) -> socket.socket:
    """Take an address; nobody can connect before the server listens on it.

    Raises:
        UserError: it is in use or not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere it means something else
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = (
            "--host is an address of this machine, such as 127.0.0.1 or 0.0.0.0" if elsewhere else "try another --port"
        )
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}; {remedy}") from error
    return taken


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; requests accepted before are answered."""
    arguments = parse()
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{package} is not installed: python -m pip install -r requirements-serving.txt")
    # OpenCV reads this when it is imported: a second lock behind the check of the header.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(arguments.max_pixels))
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("[%(asctime)s] %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    for name in ("deploy", "uvicorn"):  # not the root's level: Paddle 2.6 sets that when it is imported
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
    # The first run prepares kernels; and a model that cannot run is found now and not by the first client.
    blank = np.zeros((*(info.target_size or (640, 640)), 3), np.uint8)
    predict_grouped(predictor, [blank], [predictor.extra_inputs.blank()])
    Image.MAX_IMAGE_PIXELS = None  # the service has a limit of its own
    service = Service(
        predictor=predictor,
        info=info,
        threshold=predictor.draw_threshold if arguments.threshold is None else arguments.threshold,
        limits=Limits(arguments.max_bytes, arguments.max_pixels, arguments.timeout, arguments.queue_size),
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay_ms / 1000,
    )

    class Server(uvicorn.Server):
        """Refuses new requests from the signal on, also on connections that are open already."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            service.draining = True
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            logger.info("%s is served on http://%s:%d/ (Ctrl-C ends it)", info.name, address, port)

    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=int(arguments.timeout) + 10,
        server_header=False,
    )
    # uvicorn sends itself the signal again after an orderly end; that end is the one that was asked for: status 0.
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: None)
    Server(config).run([listener])
    logger.info("all requests are answered")


if __name__ == "__main__":
    main_guard(main)
