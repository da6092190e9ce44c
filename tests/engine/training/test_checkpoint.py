"""Checkpoints when the disk is full, of another configuration, with and without loss scaling, and owed evaluations."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import paddle
import pytest
from fakes import make_trainer
from paddle.base.layer_helper import LayerHelper
from test_train import Recorder

from deploy.common.atomic import writable_dir
from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.engine.data import EvalData
from ppdet.engine.run_name import run_folder
from ppdet.engine.training import callbacks
from ppdet.engine.training.callbacks import Callback
from ppdet.engine.training.checkpoint import RunState, TrainParts, find_resumable, save_checkpoint
from ppdet.engine.training.optimizer_state import fill_optimizer, optimizer_arrays
from ppdet.engine.training.resume import resume
from ppdet.engine.training.run import Run
from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _parts() -> TrainParts:
    model = fakes.FakeNet()
    return TrainParts(model, paddle.optimizer.SGD(0.1, parameters=model.parameters()))


class _Full:
    """A disk that has room for so many bytes more; patches what this process writes checkpoints with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        from ppdet.checkpoint import weight_files
        from ppdet.engine.training import run_state

        self.room = room
        for module in (run_state, weight_files):
            monkeypatch.setattr(module, "open", self.open, raising=False)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        stream = open(*args, **kwargs)
        full = self

        class Limited:
            def write(self, content: Any) -> int:
                full.room -= len(bytes(content))
                if full.room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return int(stream.write(content))

            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *_: Any) -> None:
                stream.close()

        return Limited()


@pytest.mark.parametrize("fitting", [0, 1, 2])
def test_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitting: int) -> None:
    parts = _parts()
    save_checkpoint(tmp_path / "best_model", parts, RunState(step=1))
    before = _contents(tmp_path)
    parts.model.head.weight.set_value(parts.model.head.weight * 2)
    sizes = [len(before[f"best_model.{suffix}"]) for suffix in ("pdparams", "safetensors", "pdopt")]
    for stem, kept in (("best_model", "; the existing file is kept"), ("1", "")):
        message = rf"^cannot write .*{stem}\.pdparams: the disk is full{kept}; earlier checkpoints are whole: make room"
        with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
            _Full(patch, sum(sizes[:fitting]) + 100)
            save_checkpoint(tmp_path / stem, parts, RunState(step=2))
        assert _contents(tmp_path) == before
    assert find_resumable(tmp_path) == tmp_path / "best_model"


def test_failing_flush_and_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems find out that they are full in fsync."""
    parts = _parts()

    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the disk quota is used up"):
        patch.setattr(os, "fsync", full)
        save_checkpoint(tmp_path / "1", parts, RunState())
    assert not list(tmp_path.iterdir())
    trainer = make_trainer(tmp_path)
    calls: list[int] = []
    monkeypatch.setattr("ppdet.utils.stats.os.fsync", lambda fd: full(fd) if len(calls) > 12 else calls.append(fd))
    with pytest.raises(UserError, match="cannot write .*: the disk quota is used up"):
        trainer.train()


LIMITED = """
import resource, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
import fakes
from ppdet.engine.training import callbacks, scalars
from ppdet.engine import data
from ppdet.engine.trainer import Trainer
from ppdet.utils.cli import main_guard
data._load = fakes.load
scalars.draw_curves = lambda path, losses, scores: path.write_bytes(b"picture")
config = fakes.make_config(Path({folder!r}), epoch=3)
trainer = Trainer(config)
class Limit(callbacks.Callback):
    def on_report(self, run, report):
        if run.state.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
main_guard(lambda: trainer.train(callbacks=(Limit(),)) and None)
"""


def test_a_training_whose_files_may_not_grow_stops_with_one_line(tmp_path: Path) -> None:
    """RLIMIT_FSIZE sends SIGXFSZ, which Python ignores, and fails the write."""
    assert resource.RLIMIT_FSIZE and signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    root, here = (str(Path(__file__).parents[level]) for level in (3, 1))
    code = LIMITED.format(root=root, here=here, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith("error: cannot write "), done.stderr
    assert "1.pdparams: the file would be larger than allowed (ulimit -f); earlier checkpoints are whole" in errors[0]
    assert "Traceback" not in done.stderr
    run = tmp_path / "output" / "fake"
    assert find_resumable(run) == run / "0"
    assert not list(run.glob(".tmp-*")) and not list(run.glob("1.*"))


def test_leftovers_of_killed_writes_are_removed_and_never_resumed_from(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epoch=1)
    trainer.train()
    for suffix in ("pdparams", "pdopt", "safetensors"):
        whole = (trainer.folder / f"model_final.{suffix}").read_bytes()
        (trainer.folder / f".tmp-4194400-7.{suffix}").write_bytes(whole)
        os.rename(trainer.folder / f"model_final.{suffix}", trainer.folder / f"0.{suffix}")
    assert find_resumable(trainer.folder) == trainer.folder / "0"
    alive = trainer.folder / f".tmp-{os.getppid()}-curves.png"
    alive.write_bytes(b"half")
    resumed = make_trainer(tmp_path)
    resumed.train(resume_from="")
    assert sorted(trainer.folder.glob(".tmp-*")) == [alive], "another process is writing this one"


def test_half_way_checkpoints(tmp_path: Path) -> None:
    class Look(Callback):
        def on_report(self, run: Run, report: callbacks.Report) -> None:
            seen[run.state.step] = sorted(file.stem for file in run.folder.glob("*.pdopt"))

    seen: dict[int, list[str]] = {}
    (tmp_path / "output" / "fake").mkdir(parents=True)
    (tmp_path / "output" / "fake" / "0_9.safetensors").write_bytes(b"of a deletion that was interrupted")
    rate = {"base_lr": 0.001, "schedulers": []}
    trainer = make_trainer(
        tmp_path,
        TrainReader={"batch_size": 1},
        FakeNet={"plain": True},
        log_iter=1,
        snapshot_iter=3,
        LearningRate=rate,
    )
    trainer.train(callbacks=(Look(),))
    assert {step: seen[step] for step in (3, 4, 7, 8, 9, 10, 13)} == {
        3: [], 4: ["0_3"], 7: ["0_6"], 8: ["0_6"], 9: ["0"], 10: ["0", "1_1"], 13: ["0", "1_4"],
    }  # fmt: skip
    assert not list(trainer.folder.glob("*_*[0-9].*"))
    with pytest.raises(UserError, match="'snapshot_iter' takes an integer between 0 and"):
        make_trainer(tmp_path, snapshot_iter=-1).train(overwrite=True)


def test_checkpoints_of_other_configurations(tmp_path: Path) -> None:
    run = make_trainer(tmp_path, epoch=1).folder
    make_trainer(tmp_path, epoch=1).train()
    stem = str(run / "model_final")

    def refused(message: str, **overrides: Any) -> None:
        with pytest.raises(UserError, match=message) as caught:
            make_trainer(tmp_path, **overrides).train(resume_from=stem)
        assert "\n" not in str(caught.value)

    refused(r"model_final\.pdopt belongs to another configuration: its optimizer is Momentum, this one has SGD",
            OptimizerBuilder={"optimizer": {"type": "SGD"}})  # fmt: skip
    refused("its optimizer is Momentum, this one has AdamW", OptimizerBuilder={"optimizer": {"type": "AdamW"}})
    refused("instead of", num_classes=7)
    refused("was trained without use_ema", use_ema=True)
    refused("nothing left to train: the checkpoint has 1 epochs of 1; set a larger epoch", epoch=1)
    content = load_pickle(f"{stem}.pdopt")
    assert content["kinds"]["architecture"] == "FakeNet"

    class OtherNet(fakes.FakeNet):
        """Same tensors, other class."""

    other = OtherNet()
    parts = TrainParts(other, paddle.optimizer.Momentum(0.1, parameters=other.parameters()))
    with pytest.raises(UserError, match="its architecture is FakeNet, this one has OtherNet"):
        resume(stem, parts)
    model = fakes.FakeNet()
    with pytest.raises(UserError, match="was trained with a learning rate schedule: it belongs to another"):
        resume(stem, TrainParts(model, paddle.optimizer.Momentum(0.1, parameters=model.parameters())))
    with pytest.raises(UserError, match="no checkpoint to resume from in .*empty"):
        (tmp_path / "empty").mkdir()
        make_trainer(tmp_path / "empty").train(resume_from="")


class _Scaler:
    """Stands in for GradScaler, which switches itself off on a CPU."""

    def __init__(self) -> None:
        self.state = {"scale": np.array([64.0], np.float32), "incr_count": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


def test_scaler_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = _parts()
    parts.scaler = _Scaler()  # type: ignore[assignment]
    parts.scaler.state = {"scale": np.array([8.0], np.float32), "incr_count": 5}  # type: ignore[union-attr, attr-defined]
    save_checkpoint(tmp_path / "with", parts, RunState())
    save_checkpoint(tmp_path / "without", TrainParts(parts.model, parts.optimizer), RunState())
    fresh = _parts()
    fresh.scaler = _Scaler()  # type: ignore[assignment]
    resume(tmp_path / "with", fresh)
    assert fresh.scaler.state == {"scale": np.array([8.0]), "incr_count": 5}  # type: ignore[union-attr, attr-defined]
    assert "loss scaling" not in capsys.readouterr().out
    resume(tmp_path / "without", fresh)
    assert "without.pdopt was trained without loss scaling; the scaling starts over" in capsys.readouterr().out
    resume(tmp_path / "with", _parts())
    assert "with.pdopt was trained with loss scaling and continues without" in capsys.readouterr().out


class _Ap:
    """A metric that returns the next value of a list."""

    values: list[float] = []

    def update(self, batch: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Takes no notice."""

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """The next value; an evaluation that dies where there is none."""
        return {"bbox": [_Ap.values.pop(0)] * 12}


def test_evaluation_of_the_last_epoch_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EvalData, "metric", lambda self, model: _Ap())
    _Ap.values = [0.3]
    with pytest.raises(IndexError):
        make_trainer(tmp_path).train(validate=True)
    run = tmp_path / "output" / "fake"
    assert (run / "eval_scalars.csv").read_text().count("\n") == 2
    _Ap.values = [0.4]
    state = make_trainer(tmp_path).train(validate=True, resume_from="")
    assert state.best_ap == 0.4 and state.step == 8
    lines = (run / "eval_scalars.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [["4", "1", "0.3"], ["8", "2", "0.4"]]
    assert load_pickle(run / "model_final.pdopt")["state"]["eval_due"] is False
    with pytest.raises(UserError, match="nothing left to train"):
        make_trainer(tmp_path).train(validate=True, resume_from="")


def test_going_back_leaves_what_came_later_behind(tmp_path: Path) -> None:
    make_trainer(tmp_path, epoch=3).train()
    run = tmp_path / "output" / "fake"
    assert find_resumable(run) == run / "model_final"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, epoch=3).train(resume_from=str(run / "0"), callbacks=(Recorder(stop_after=8),))
    assert load_pickle(run / "model_final.pdopt")["state"]["step"] == 12
    assert find_resumable(run) == run / "1"


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    run = tmp_path / "output" / "fake"
    run.mkdir(parents=True)
    own, halfway = run / "2024_06_before_fix.pdopt", run / "0_3.pdopt"
    for file in (own, halfway):
        file.write_bytes(b"")
    make_trainer(tmp_path, epoch=1).train(overwrite=True)
    assert own.exists() and not halfway.exists()


def test_half_precision_weights_of_a_run_with_an_average(tmp_path: Path) -> None:
    parts = _parts()
    parts.ema = ModelEMA(parts.model, 0.5)
    parts.model.head.to(dtype="bfloat16")
    before = parts.model.head.weight.astype("float32").numpy()
    save_checkpoint(tmp_path / "a", parts, RunState())
    parts.model.head.weight.set_value(paddle.zeros_like(parts.model.head.weight))
    resume(tmp_path / "a", parts)
    np.testing.assert_array_equal(parts.model.head.weight.astype("float32").numpy(), before)
    assert np.abs(before).max() > 0.1


def test_float32_copies_of_half_precision_weights(tmp_path: Path) -> None:
    model = paddle.nn.Linear(3, 2)
    model.to(dtype="float16")
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters(), multi_precision=True)
    optimizer.helper = LayerHelper("Momentum")
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), model.parameters())
    masters = dict(optimizer.state_dict()["master_weights"])
    assert len(masters) == 2
    content = {"optimizer": optimizer_arrays(model, optimizer), "LR_Scheduler": None}
    before = {name: tensor.numpy().copy() for name, tensor in masters.items()}
    for tensor in masters.values():
        tensor.set_value(tensor + 1.0)
    fill_optimizer(model, optimizer, content, tmp_path / "a.pdopt")
    for name, tensor in optimizer._master_weights.items():
        assert tensor is masters[name], "Paddle finds a parameter's tensors by the name of this one"
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    config = fakes.make_config(tmp_path, save_dir=str(tmp_path / "file" / "runs"))
    with pytest.raises(UserError, match="cannot create the folder .*file/runs/fake: Not a directory"):
        writable_dir(run_folder(config))
    config = fakes.make_config(tmp_path)

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="cannot write into the folder .*output/fake: the disk is full"):
        writable_dir(run_folder(config))


def test_log_file_on_a_full_disk_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ppdet.utils.logger import add_log_file, setup_logger

    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    add_log_file("/dev/full")
    try:
        setup_logger().info("first")
        setup_logger().info("second")
    finally:
        add_log_file(tmp_path / "other.log")
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert printed.out.count("logging to /dev/full has stopped: No space left on device") == 1
    assert "first" in printed.out and "second" in printed.out
