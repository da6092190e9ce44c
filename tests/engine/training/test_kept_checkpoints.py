"""Which files of checkpoints are written and which are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fakes import make_trainer
from test_train import FakeMetric, Recorder

from ppdet.checkpoint.weights import read_state
from ppdet.engine.data import EvalData
from ppdet.engine.training.checkpoint import RunState, find_resumable, save_checkpoint
from ppdet.engine.training.run_folder import checkpoints
from ppdet.engine.training.start import build_parts
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture()
def aps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """AP values of the evaluations to come."""
    monkeypatch.setattr(EvalData, "metric", lambda self, model=None: FakeMetric())
    FakeMetric.values = []
    return FakeMetric.values


def _train(folder: Path, **settings: Any) -> Path:
    resume, validate = settings.pop("resume", None), settings.pop("validate", False)
    callbacks = settings.pop("callbacks", ())
    trainer = make_trainer(folder, **settings)
    trainer.train(validate, resume, callbacks)
    return trainer.folder


@pytest.mark.parametrize(
    ("keep", "every", "kept"),
    [(None, 1, list("01234")), (1, 1, ["4"]), (2, 1, ["3", "4"]), (9, 1, list("01234")), (2, 2, ["1", "3"])],
)  # fmt: skip
def test_the_newest_are_kept(tmp_path: Path, keep: int | None, every: int, kept: list[str]) -> None:
    run = _train(tmp_path, epoch=6, max_keep_checkpoints=keep, snapshot_epoch=every)
    assert checkpoints(run) == [*kept, "model_final"]
    for stem in kept:
        assert {file.suffix for file in run.glob(f"{stem}.*")} == {".pdparams", ".pdopt", ".safetensors"}


def test_the_best_and_what_is_not_of_the_run_are_never_deleted(tmp_path: Path, aps: list[float]) -> None:
    aps += [0.5, 0.4, 0.3, 0.2]
    (tmp_path / "output" / "fake").mkdir(parents=True)
    other = tmp_path / "output" / "fake" / "0.backup.pdparams"
    other.write_bytes(b"mine")
    run = _train(tmp_path, epoch=4, max_keep_checkpoints=1, validate=True)
    assert checkpoints(run) == ["2", "best_model", "model_final"] and other.read_bytes() == b"mine"


def test_going_back_leaves_later_ones_alone(tmp_path: Path) -> None:
    run = _train(tmp_path, epoch=5)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, epoch=5, max_keep_checkpoints=1, resume=str(run / "0"), callbacks=(Recorder(stop_after=8),))
    assert checkpoints(run) == ["1", "2", "3", "model_final"]
    assert find_resumable(run) == run / "1", "the newest whole one of the training under way"


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(UserError, match="max_keep_checkpoints"):
        _train(tmp_path, max_keep_checkpoints=keep)


def test_best_weights_are_weights_alone(tmp_path: Path, aps: list[float]) -> None:
    aps += [0.5, 0.4]
    stale = tmp_path / "output" / "fake" / "best_model.pdopt"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another version, which wrote it")
    run = tmp_path / "output" / "fake"
    trainer = make_trainer(tmp_path)
    trainer.train(validate=True, overwrite=True)
    assert {file.suffix for file in run.glob("best_model.*")} == {".pdparams", ".safetensors"}
    message = (
        r"cannot resume from .*best_model: it consists of weights only \(no best_model\.pdopt\); continue from the "
        r"newest checkpoint of the run with -r alone, or start a new training from these weights with "
        r"-o pretrain_weights=.*best_model"
    )
    for name in ("best_model", "best_model.pdparams"):
        with pytest.raises(UserError, match=message):
            make_trainer(tmp_path, epoch=3).train(resume_from=str(run / name))
    assert find_resumable(run) == run / "model_final"


def test_without_the_twin(tmp_path: Path, aps: list[float]) -> None:
    aps += [0.5, 0.4, 0.6]
    run = _train(tmp_path, validate=True, save_safetensors=False)
    assert not list(run.glob("*.safetensors")) and checkpoints(run) == ["0", "best_model", "model_final"]
    assert find_resumable(run) == run / "model_final" and read_state(run / "best_model")
    _train(tmp_path, validate=True, save_safetensors=True, epoch=3, resume="")
    assert sorted(file.stem for file in run.glob("*.safetensors")) == ["best_model", "model_final"]


def test_a_twin_of_other_weights_is_removed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    parts = build_parts(trainer.config, trainer.model, trainer.precision, steps=4, images=8, total_batch=2)
    save_checkpoint(tmp_path / "a", parts, RunState())
    save_checkpoint(tmp_path / "a", parts, RunState(), twin=False, resumable=False)
    assert sorted(file for file in os.listdir(tmp_path) if file.startswith("a.")) == ["a.pdparams"]
