"""Trainings of the stand-in model that are killed; runs as a process of its own and forks one for each training.

Paddle is imported once and used only in the forks. Arguments: folder, mode, numbers.
"""

from __future__ import annotations

import builtins
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[1])]

import fakes  # noqa: E402

from deploy.common import atomic  # noqa: E402
from ppdet.checkpoint import weight_files  # noqa: E402
from ppdet.checkpoint.formats.unpickle import load_pickle  # noqa: E402
from ppdet.checkpoint.weights import read_state  # noqa: E402
from ppdet.engine import data  # noqa: E402
from ppdet.engine.data import EvalData  # noqa: E402
from ppdet.engine.trainer import Trainer  # noqa: E402
from ppdet.engine.training import checkpoint, scalars  # noqa: E402
from ppdet.utils import stats  # noqa: E402
from ppdet.utils.errors import UserError  # noqa: E402

EPOCHS = 4
SUFFIXES = (".pdparams", ".pdopt", ".safetensors")


class Metric:
    """AP is a function of the evaluated weights."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = trainer.model

    def update(self, batch: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Takes no notice."""

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """A number between 0 and 1 that goes up and down."""
        return {"bbox": [abs(float(self.model.head.weight.sum())) * 10 % 1.0] * 12}


class Countdown:
    """Kills the process at the n-th of all moments in which a file is being written."""

    def __init__(self, last: int) -> None:
        self.last, self.count = last, 0

    def tick(self, halfway: Callable[[], Any] = lambda: None) -> None:
        """One such moment; the last one does its work by half."""
        self.count += 1
        if self.count == self.last:
            halfway()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Count writes to streams, flushes to the disk, renames and deletions."""
        for module in (atomic, checkpoint, weight_files, stats):
            module.open = lambda *args, **kwargs: _Stream(builtins.open(*args, **kwargs), self)  # type: ignore[attr-defined]
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return counted


class _Stream:
    """A stream that may be killed having written half of what it was given."""

    def __init__(self, stream: Any, countdown: Countdown) -> None:
        self._stream, self._countdown = stream, countdown

    def write(self, content: Any) -> int:
        def half() -> None:
            self._stream.write(bytes(content)[: len(content) // 2] if "b" in self._stream.mode else content[:5])
            self._stream.flush()

        self._countdown.tick(half)
        return int(self._stream.write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()

    def __iter__(self) -> Any:
        return iter(self._stream)


def train(folder: Path, accumulate: int, countdown: Countdown | None = None) -> None:
    """Start the training, or go on with it where there is a checkpoint."""
    data._load = fakes.load  # type: ignore[assignment]
    scalars.draw_curves = lambda path, losses, scores: path.write_bytes(b"picture")  # type: ignore[assignment]
    config = fakes.make_config(
        folder, use_ema=True, epoch=EPOCHS, accumulate_steps=accumulate, snapshot_iter=3, log_iter=2
    )
    trainer = Trainer(config)
    EvalData.metric = lambda self, model: Metric(trainer)  # type: ignore[method-assign]
    if countdown is not None:
        countdown.install()
    trainer.train(validate=True, resume_from="auto")
    if countdown is not None:
        (folder / "count").write_text(str(countdown.count))


def state(folder: Path) -> dict[str, Any]:
    """State in the newest whole checkpoint; empty without one."""
    try:
        stem = checkpoint.find_resumable(folder / "output" / "fake")
    except UserError:
        return {}
    found: dict[str, Any] = load_pickle(f"{stem}.pdopt")["state"]
    return found


def newest(folder: Path) -> int:
    """Step of the newest whole checkpoint, 0 without one."""
    return int(state(folder).get("step", 0))


def fork(folder: Path, *args: Any) -> int:
    """Train in a process of its own and return its id."""
    folder.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with open(folder / "printed.txt", "a") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            train(folder, *args)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return process


def finished(process: int, folder: Path) -> bool:
    """Wait for a training; whether it came to its end. Every file with a final name has to be whole."""
    _, status = os.waitpid(process, 0)
    after = state(folder)
    if os.WIFSIGNALED(status) and after and after["epoch"] == EPOCHS and not after["eval_due"]:
        return True  # killed with everything done: -r would say that there is nothing left to train
    if not os.WIFSIGNALED(status) and status:
        raise RuntimeError((folder / "printed.txt").read_text()[-3000:])
    for file in (folder / "output" / "fake").glob("[!.]*"):
        if file.suffix == ".pdopt":
            load_pickle(file)
        elif file.suffix in SUFFIXES:
            read_state(file)
    return not os.WIFSIGNALED(status)


def at_random(folder: Path, seed: int, accumulate: int, seconds: float) -> int:
    """Kill after random times until the training is done; return the number of kills."""
    rng = random.Random(seed)
    kills, before = 0, 0
    while True:
        process = fork(folder, accumulate)
        time.sleep(rng.uniform(0.1, 0.9) * seconds)
        os.kill(process, signal.SIGKILL)
        if finished(process, folder):
            return kills
        reached = newest(folder)
        assert reached >= before, "a kill has cost an older checkpoint"
        if reached == before:  # on a machine that has become busy, the next one gets more time to reach a checkpoint
            seconds *= 1.3
        kills, before = kills + 1, reached


def at_write(folder: Path, position: int, accumulate: int) -> int:
    """Kill at a position of writing, go on to the end; return the number of kills."""
    if finished(fork(folder, accumulate, Countdown(position)), folder):
        return 0
    assert finished(fork(folder, accumulate), folder)
    return 1


def main() -> None:
    """Print the names of the folders and how often each training was killed, as JSON."""
    folder, mode, numbers = Path(sys.argv[1]), sys.argv[2], [int(text) for text in sys.argv[3:]]
    result: dict[str, Any] = {}
    for accumulate in (1, 2):
        begun = time.monotonic()
        assert finished(fork(folder / f"whole{accumulate}", accumulate, Countdown(0)), folder / f"whole{accumulate}")
        seconds = time.monotonic() - begun
        if mode == "random":
            seed, wanted = numbers
            while sum(count for name, count in result.items() if name[0] == str(accumulate)) < wanted:
                result[f"{accumulate}_{seed}"] = at_random(folder / f"{accumulate}_{seed}", seed, accumulate, seconds)
                seed += 1
        else:
            positions = int((folder / f"whole{accumulate}" / "count").read_text())
            for position in range(numbers[0] + accumulate, positions + 1, numbers[1]):
                name = f"{accumulate}_{position}"
                result[name] = at_write(folder / name, position, accumulate)
    print("RESULT", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
