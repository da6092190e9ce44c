"""A training of the stand-in whose steps are as long, and as deaf, as those of a large model.

Arguments: folder, where to be slow (``step``, ``evaluation``), seconds.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[1])]

import fakes  # noqa: E402

from ppdet.engine import data  # noqa: E402
from ppdet.engine.data import EvalData  # noqa: E402
from ppdet.engine.trainer import Trainer  # noqa: E402
from ppdet.engine.training import scalars  # noqa: E402
from ppdet.utils.cli import main_guard  # noqa: E402

FOLDER, WHERE, SECONDS = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])


def busy() -> None:
    """Compute in one call, in which no Python code of the main thread runs, signal handlers neither."""
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", min(2**31 - 1, max(1, int(SECONDS * RATE))))


class Metric:
    """Has no numbers."""

    def update(self, batch: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Takes long."""
        if WHERE == "evaluation":
            busy()

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """An AP."""
        return {"mask": [0.5] * 12}


_plain_forward = fakes.FakeNet.forward


def slow_forward(self: fakes.FakeNet, batch: dict[str, Any]) -> dict[str, Any]:
    """Take long in training."""
    if self.training and WHERE == "step":
        busy()
    return _plain_forward(self, batch)


def main() -> None:
    """Train, with evaluation."""
    data._load = fakes.load  # type: ignore[assignment]
    scalars.draw_curves = lambda path, losses, scores: path.write_bytes(b"picture")  # type: ignore[assignment]
    EvalData.metric = lambda self, model=None: Metric()  # type: ignore[method-assign]
    fakes.FakeNet.forward = slow_forward  # type: ignore[method-assign]
    Trainer(fakes.make_config(FOLDER, epoch=3)).train(validate=True, resume_from="auto")


begun = time.perf_counter()
hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
RATE = 200_000 / (time.perf_counter() - begun)

if __name__ == "__main__":
    main_guard(main)
