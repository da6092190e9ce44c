"""A training of the stand-in model, started by ``paddle.distributed.launch``.

Arguments: folder, what happens, to which rank, and by how many seconds the last rank that it does not happen to is late
with its message.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[1])]

import fakes  # noqa: E402

from ppdet.checkpoint.weights import array_fingerprint, state_arrays  # noqa: E402
from ppdet.core.config.settings import RuntimeSettings  # noqa: E402
from ppdet.engine import data  # noqa: E402
from ppdet.engine.data import EvalData  # noqa: E402
from ppdet.engine.distributed import peers  # noqa: E402
from ppdet.engine.distributed.env import gather_objects, init_parallel, rank, world_size  # noqa: E402
from ppdet.engine.distributed.roll_call import announce_failure  # noqa: E402
from ppdet.engine.trainer import Trainer  # noqa: E402
from ppdet.utils.cli import main_guard  # noqa: E402
from ppdet.utils.errors import UserError  # noqa: E402


class Metric:
    """AP is the number of different images over 100."""

    def __init__(self) -> None:
        self.images: list[int] = []

    def update(self, batch: dict, outputs: dict) -> None:
        """Collect the ids."""
        self.images += batch["im_id"].tolist()

    def state(self) -> list[int]:
        """This rank's ids."""
        return self.images

    def load_state(self, states: list) -> None:
        """Take every rank's ids."""
        self.images = [image for state in states for image in state]
        assert len(self.images) == len(set(self.images))

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """The same number twelve times."""
        return {"bbox": [len(self.images) / 100] * 12}


FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
HERE = rank() == int(sys.argv[3])
"""Whether it happens to this process."""
LATE = float(sys.argv[4])


class SplitLoader(fakes.FakeLoader):
    """This rank's share: every second item. In the second batch something may happen."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        for index, batch in enumerate(super().__iter__()):
            if index % world_size() == rank():
                yield batch
            if index == world_size() - 1 and HERE:
                happen()

    def __len__(self) -> int:
        return super().__len__() // world_size()


def happen() -> None:
    """What goes wrong with one process in the middle of an epoch."""
    if MODE == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "interrupted":  # the first asks to stop at the next log line, the second does not wait for it
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGINT)
    if MODE == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if MODE == "disk hangs":
        time.sleep(300)
    if MODE in ("user error", "hangs"):
        raise UserError("cannot read broken.jpg")
    if MODE == "defect":
        raise ZeroDivisionError("no such\nbox")


def be_late() -> None:
    """Let the thread that ends this process because of another one come to its turn late, as on a busy machine."""
    plain = peers._Peers._end

    def end(self: peers._Peers, *args: str) -> None:
        time.sleep(LATE)
        plain(self, *args)

    peers._Peers._end = end  # type: ignore[method-assign]


def main() -> None:
    """Train two epochs, with evaluation."""
    if not HERE and rank() == max(index for index in range(world_size()) if index != int(sys.argv[3])):
        be_late()
    announce_failure()
    if MODE == "early" and HERE:
        raise UserError("no such configuration")
    config = fakes.make_config(FOLDER, f"fake{rank()}")
    if MODE == "absent":
        config["join_timeout"] = 6.0
        time.sleep(60 if HERE else 0)
    init_parallel(RuntimeSettings.from_config(config))
    fakes.FakeLoader = SplitLoader  # type: ignore[misc]
    data._load = fakes.load  # type: ignore[assignment]
    EvalData.metric = lambda self, model: Metric()  # type: ignore[method-assign]
    config.__dict__["filename"] = "fake.yml"
    config["log_iter"] = 1
    if MODE == "stopped":
        peers.BEAT_SECONDS = 0.5
        config["heartbeat_timeout"] = 4.0
    if MODE == "disk hangs":
        peers.BEAT_SECONDS = 0.5
        config["progress_timeout"] = 5.0
    if MODE == "configuration" and HERE:
        config["epoch"] = 1
    if MODE == "data" and HERE:
        fakes.FakeDataset.__len__ = lambda self: self.count + 1  # type: ignore[method-assign]
    if MODE == "folder":
        config["save_dir"] = str(Path(__file__) / "runs")
    if world_size() == 3:
        config["TrainReader"] = {"batch_size": 1}
    if MODE == "average":
        config["use_ema"], config["ema_decay_type"] = True, "normal"
        plain = Trainer.evaluate

        def evaluate(self: Trainer, given: EvalData | None = None) -> dict[str, list[float]]:
            print("EVALUATED", gather_objects(array_fingerprint(state_arrays(self.model))), flush=True)
            return plain(self, given)

        Trainer.evaluate = evaluate  # type: ignore[method-assign]
    if MODE == "accumulate":
        config["accumulate_steps"] = 2
        config["auto_scale_lr"] = 32
    trainer = Trainer(config)
    try:
        trainer.train(validate=not (MODE == "options" and HERE))
    except UserError:
        if MODE == "hangs":  # it has failed, and does not end
            time.sleep(300)
        raise
    prints = gather_objects(array_fingerprint({k: v for k, v in state_arrays(trainer.model).items() if "._" not in k}))
    print("PRINTS", prints, flush=True)


if __name__ == "__main__":
    main_guard(main)
