"""Training with a stand-in model: files, resuming, interruption, guards."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import paddle
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state, state_arrays
from ppdet.engine.data import EvalData
from ppdet.engine.trainer import Trainer
from ppdet.engine.training.callbacks import Callback, Report
from ppdet.engine.training.checkpoint import find_resumable
from ppdet.engine.training.run import Run
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(Callback):
    """Keeps reports; sends itself a signal after a step."""

    def __init__(self, stop_after: int = -1, number: int = signal.SIGINT) -> None:
        self.reports: list[tuple[int, Report]] = []
        self.early: list[int] = []
        self.evaluations: list[tuple[int, dict[str, list[float]]]] = []
        self.stop_after, self.number = stop_after, number

    def on_report(self, run: Run, report: Report) -> None:
        """Remember, and perhaps ask to stop."""
        if report.early:
            self.early.append(run.state.step)
            return
        self.reports.append((run.state.step, report))
        if run.state.step == self.stop_after:
            os.kill(os.getpid(), self.number)

    def on_evaluation(self, run: Run, results: dict[str, list[float]]) -> None:
        """Remember."""
        self.evaluations.append((run.state.step, results))


class FakeMetric:
    """Returns AP values from a list, one an evaluation."""

    values: list[float] = []

    def __init__(self) -> None:
        self.images: list[int] = []

    def update(self, batch: dict[str, Any], outputs: dict[str, np.ndarray]) -> None:
        """Check what the evaluator hands over."""
        assert "image" not in batch and outputs["bbox"].shape == (2 * len(batch["im_id"]), 6)
        self.images += batch["im_id"].tolist()

    def accumulate(self) -> None:
        """Nothing to do."""

    log = accumulate

    def get_results(self) -> dict[str, list[float]]:
        """The next value as box AP, a tenth more as mask AP."""
        value = FakeMetric.values.pop(0)
        return {"bbox": [value] * 12, "mask": [value + 0.1] * 12}


@pytest.fixture()
def validated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Evaluations get their AP from the list that the test fills."""
    FakeMetric.values = []
    monkeypatch.setattr(EvalData, "metric", lambda self, model: FakeMetric())
    yield FakeMetric.values


def _train(folder: Path, recorder: Recorder | None = None, resume: str | None = None, **overrides: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    validate = overrides.pop("validate", False)
    trainer = Trainer(fakes.make_config(folder, **overrides))
    trainer.train(validate, resume, (recorder,) if recorder else ())
    return trainer


def _equal(first: Path, second: Path) -> bool:
    ours, theirs = read_state(first), read_state(second)
    assert ours.keys() == theirs.keys()
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_run_folder_and_reports(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = _train(tmp_path, recorder)
    names = sorted(os.listdir(trainer.folder))
    stems = [f"{stem}.{kind}" for stem in ("0", "model_final") for kind in ("pdopt", "pdparams", "safetensors")]
    extra = ["config.yml", "curves.png", "eval_scalars.csv", "run.txt", "train.log", "train_scalars.csv"]
    assert names == sorted(stems + extra)
    # 4 steps an epoch, a report every 2; warm-up of 3 steps from 0.1, then the decay at epoch 1
    assert recorder.early == [1], "the first step is a sign of life"
    assert [step for step, _ in recorder.reports] == [2, 4, 6, 8]
    assert [round(report.lr, 6) for _, report in recorder.reports] == [0.055, 0.1, 0.01, 0.01]
    for _, report in recorder.reports:
        assert report.losses["loss"] == pytest.approx(3 * report.losses["loss_fit"], rel=1e-5)
    with open(trainer.folder / "train_scalars.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == pytest.approx([r.losses["loss"] for _, r in recorder.reports], 1e-5)
    log = (trainer.folder / "train.log").read_text()
    assert re.search(r"Epoch 1/2 \[2/4\] loss \S+ \(fit \S+ twice \S+\) lr 0.055 ", log)
    assert "seed: 5" in (trainer.folder / "run.txt").read_text()
    assert "architecture: FakeNet" in (trainer.folder / "config.yml").read_text()
    assert paddle.load(str(trainer.folder / "model_final.pdparams")).keys() == trainer.model.state_dict().keys()


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    runs = [_train(tmp_path / name, seed=seed).folder / "model_final" for name, seed in [("a", 1), ("b", 1), ("c", 2)]]
    assert _equal(runs[0], runs[1]) and not _equal(runs[0], runs[2])


@pytest.mark.parametrize("use_ema", [False, True])
@pytest.mark.parametrize("optimizer", ["Momentum", "AdamW"])
def test_interrupted_and_resumed_is_exact(tmp_path: Path, use_ema: bool, optimizer: str) -> None:
    settings: dict[str, Any] = {"use_ema": use_ema, "epoch": 3}
    if optimizer == "AdamW":
        settings["OptimizerBuilder"] = {"optimizer": {"type": "AdamW"}}
    whole = _train(tmp_path / "whole", **settings)
    for step in (2, 4, 6):  # inside the first epoch, at its end, inside the second
        folder = tmp_path / f"cut{step}"
        with pytest.raises(KeyboardInterrupt):
            _train(folder, Recorder(stop_after=step), **settings)
        run = folder / "output" / "fake"
        assert not (run / "model_final.pdopt").exists()
        newest = "0" if step == 4 else f"{step // 4}_{step % 4}"
        assert find_resumable(run) == run / newest
        resumed = _train(folder, resume="", **settings)
        assert _equal(resumed.folder / "model_final", whole.folder / "model_final")
        ours = load_pickle(resumed.folder / "model_final.pdopt")
        theirs = load_pickle(whole.folder / "model_final.pdopt")
        assert {**ours["state"], "started": theirs["state"]["started"]} == theirs["state"]
        assert ours["LR_Scheduler"] == theirs["LR_Scheduler"]
        for name, array in theirs["optimizer"].items():
            np.testing.assert_array_equal(ours["optimizer"][name], array)
        assert sorted(os.listdir(run)) == sorted(os.listdir(whole.folder)), "half-way checkpoints are gone"
        with open(run / "train_scalars.csv", newline="") as stream:
            assert [int(row["step"]) for row in csv.DictReader(stream)] == [2, 4, 6, 8, 10, 12]
        starts = [line for line in (run / "run.txt").read_text().splitlines() if line.startswith("start: ")]
        assert starts == ["start: after 0 steps", f"start: after {step} steps"]


def test_sigterm_saves_too_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, Recorder(stop_after=2, number=signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "output" / "fake" / "0_2.pdopt").exists()


def test_best_model_by_mask_ap(tmp_path: Path, validated: list[float]) -> None:
    validated += [0.2, 0.4, 0.3]
    recorder = Recorder()
    trainer = _train(tmp_path, recorder, validate=True, epoch=3)
    assert _equal(trainer.folder / "best_model", trainer.folder / "1")
    assert not _equal(trainer.folder / "best_model", trainer.folder / "model_final")
    state = load_pickle(trainer.folder / "model_final.pdopt")["state"]
    assert state["best_ap"] == pytest.approx(0.5) and state["eval_due"] is False
    assert [step for step, _ in recorder.evaluations] == [4, 8, 12]
    with open(trainer.folder / "eval_scalars.csv", newline="") as stream:
        assert [float(row["mask_AP"]) for row in csv.DictReader(stream)] == pytest.approx([0.3, 0.5, 0.4])
    assert trainer.model.training


def test_evaluation_that_died_is_made_up_for(tmp_path: Path, validated: list[float]) -> None:
    with pytest.raises(IndexError):  # no AP left: the evaluation after epoch 0 dies
        _train(tmp_path, validate=True)
    state = load_pickle(tmp_path / "output" / "fake" / "0.pdopt")["state"]
    assert state["eval_due"] is True and state["best_ap"] == -1
    validated += [0.6, 0.2]
    trainer = _train(tmp_path, resume=str(tmp_path / "output" / "fake" / "0"), validate=True)
    assert _equal(trainer.folder / "best_model", trainer.folder / "0")


def test_ema_is_what_is_saved(tmp_path: Path) -> None:
    trainer = _train(tmp_path, use_ema=True, ema_decay=0.5, ema_decay_type="normal")
    saved, trained = read_state(trainer.folder / "model_final"), state_arrays(trainer.model)
    raw = load_pickle(trainer.folder / "model_final.pdopt")["model"]
    assert not np.array_equal(saved["head.weight"], trained["head.weight"])
    np.testing.assert_array_equal(raw["head.weight"], trained["head.weight"])


def test_accumulated_steps_equal_one_large_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paddle, "rand", paddle.zeros)
    monkeypatch.setattr(np.random, "rand", lambda: 0.0)
    plain = {"FakeNet": {"plain": True}}
    large = _train(tmp_path / "l", TrainReader={"batch_size": 4}, log_iter=1, **plain)
    small = _train(tmp_path / "s", TrainReader={"batch_size": 2}, accumulate_steps=2, log_iter=1, **plain)
    ours, theirs = read_state(small.folder / "model_final"), read_state(large.folder / "model_final")
    for name in ("head.weight", "head.bias", "backbone.0.weight"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=1e-7)


def test_non_finite_loss_stops_with_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"loss_fit = nan, .* at epoch 1, iteration 3; lower") as caught:
        _train(tmp_path, FakeNet={"blow_up_at": 3})
    assert "\n" not in str(caught.value)
    run = tmp_path / "output" / "fake"
    assert not list(run.glob("*.pdparams"))
    log = (run / "train.log").read_text()
    assert log.count("image_") == 2, "the two images of the batch are named"


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    run = _train(tmp_path).folder
    with pytest.raises(UserError, match="nothing left to train: the checkpoint has 2 epochs of 2"):
        _train(tmp_path, resume=str(run / "model_final"))
    with pytest.raises(UserError, match=r"head\.weight \[4, 4\] instead of \[4, 8\]"):
        _train(tmp_path, resume=str(run / "0"), num_classes=7)
    with pytest.raises(UserError, match=r"9\.pdopt does not exist"):
        _train(tmp_path, resume=str(run / "9"))
    with pytest.raises(UserError, match="was trained without use_ema"):
        _train(tmp_path, resume=str(run / "0.pdparams"), use_ema=True)
    os.replace(run / "model_final.pdparams", run / "0.pdparams")
    with pytest.raises(UserError, match="do not belong together"):
        _train(tmp_path, resume=str(run / "0"))


def test_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    run = _train(tmp_path, epoch=3).folder
    assert find_resumable(run) == run / "model_final"
    (run / "model_final.pdopt").write_bytes((run / "model_final.pdopt").read_bytes()[:-9])
    assert find_resumable(run) == run / "1"
    (run / "1.pdparams").unlink()
    assert find_resumable(run) == run / "0"
    with pytest.raises(UserError, match="no checkpoint to resume from in .*elsewhere"):
        find_resumable(tmp_path / "elsewhere")


def test_pretrained_weights_are_the_start(tmp_path: Path) -> None:
    first = _train(tmp_path / "a").folder / "model_final"
    start = read_state(first)
    trainer = Trainer(
        fakes.make_config(
            tmp_path, pretrain_weights=f"{first}.pdparams", epoch=1, LearningRate={"base_lr": 1e-30, "schedulers": []}
        )
    )
    trainer.train()
    np.testing.assert_allclose(read_state(trainer.folder / "model_final")["head.weight"], start["head.weight"])


@pytest.mark.parametrize(
    ("scaling", "accumulate", "rate", "line"),
    [
        (8, 1, 0.025, "base_lr scaled to 0.025 for 2 images per step (set for 8)"),
        (8, 2, 0.05, "base_lr scaled to 0.05 for 4 images per step (set for 8)"),
        (True, 1, 0.0125, "base_lr scaled to 0.0125 for 2 images per step (set for 16)"),
        (False, 1, 0.1, ""),
    ],
)
def test_scaled_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scaling: Any, accumulate: int, rate: float, line: str
) -> None:
    recorder = Recorder()
    constant = {"base_lr": 0.1, "schedulers": []}
    _train(tmp_path, recorder, auto_scale_lr=scaling, accumulate_steps=accumulate, epoch=1, LearningRate=constant)
    assert recorder.reports[-1][1].lr == pytest.approx(rate)
    printed = capsys.readouterr().out
    assert line in printed and ("base_lr scaled" in printed) == bool(line)


def test_misfits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'auto_scale_lr' takes true or false or an integer between 1 and \d+, got -4"):
        _train(tmp_path, auto_scale_lr=-4)
    with pytest.raises(UserError, match=r"'log_iter' takes an integer between 1 and \d+, got -1"):
        _train(tmp_path, log_iter=-1)
    with pytest.raises(UserError, match="fewer images than one step"):
        _train(tmp_path, TrainReader={"batch_size": 9})
    with pytest.raises(UserError, match="no weights given"):
        Trainer(fakes.make_config(tmp_path)).load_weights()
