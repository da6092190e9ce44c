"""Checkpoints of a training whose ``.pdopt`` file lacks something, or has something else in its place."""

from __future__ import annotations

import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.engine.training.checkpoint import RunState, TrainParts, find_resumable, save_checkpoint
from ppdet.engine.training.nonfinite import BadStep
from ppdet.engine.training.resume import resume
from ppdet.engine.training.run_state import read_pdopt
from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError
from ppdet.utils.stats import ScalarTable
from tests.hostile.test_weight_files import mutated

pytestmark = pytest.mark.filterwarnings("ignore")

DELETE = object()


class _Scaler:
    """Stands in for GradScaler, which switches itself off on a CPU."""

    def __init__(self) -> None:
        self.state = {"scale": np.array([64.0], np.float32), "incr_count": 0, "use_dynamic_loss_scaling": True}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


def _parts() -> TrainParts:
    model = paddle.nn.Sequential(paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 1))
    rate = paddle.optimizer.lr.PiecewiseDecay([2], [0.1, 0.01])
    optimizer = paddle.optimizer.Momentum(rate, 0.9, model.parameters())
    parts = TrainParts(model, optimizer, ModelEMA(model), _Scaler())  # type: ignore[arg-type]
    model(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    return parts


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint (path without extension)."""
    stem = tmp_path_factory.mktemp("run") / "0"
    save_checkpoint(stem, _parts(), RunState(epoch=1, steps_per_epoch=4, step=4, seed=3, window={"loss": [1.0]}))
    return stem


def _changed(saved: Path, folder: Path, path: str, value: Any) -> Path:
    """Copy a checkpoint with one entry of its ``.pdopt`` replaced (``ema/step``: an entry of an entry)."""
    stem = folder / "0"
    for suffix in ("pdparams", "safetensors"):
        Path(f"{stem}.{suffix}").write_bytes(Path(f"{saved}.{suffix}").read_bytes())
    content = load_pickle(f"{saved}.pdopt")
    *parents, last = path.split("/")
    place = content
    for key in parents:
        place = place[key]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    Path(f"{stem}.pdopt").write_bytes(pickle.dumps(content, 4))
    return stem


def test_the_checkpoint_itself_is_resumed(saved: Path, tmp_path: Path) -> None:
    state = resume(_changed(saved, tmp_path, "state/epoch", 1), _parts())
    assert (state.epoch, state.step, state.seed, state.window) == (1, 4, 3, {"loss": [1.0]})


FIELDS = ("state", "fingerprint", "optimizer", "LR_Scheduler", "scaler", "ema", "model")
WRONG: list[tuple[str, Any]] = [
    *((f"{key}", DELETE) for key in FIELDS),
    *((f"{key}", "text") for key in (*FIELDS, "kinds", "layout")),
    *((f"{key}", [1]) for key in (*FIELDS, "kinds", "layout")),
    *((f"{key}", 1.5) for key in (*FIELDS, "kinds", "layout")),
    *((f"state/{key}", DELETE) for key in ("epoch", "iteration", "steps_per_epoch", "step", "seed")),
    *(
        (f"state/{key}", value)
        for key in ("epoch", "iteration", "steps_per_epoch", "step", "seed", "skipped")
        for value in (-1, 1.5, "1", None, True, math.nan, [1])
    ),
    *((f"state/{key}", 1 << 200) for key in ("epoch", "iteration", "steps_per_epoch", "step")),
    *(("state/best_ap", value) for value in (math.nan, math.inf, -7.0, 3, "0.5", None)),
    *(("state/started", value) for value in (math.nan, -1.0, "now", None)),
    *(("state/eval_due", value) for value in (1, "yes", None)),
    *(("state/window", value) for value in ([1.0], {"loss": 1.0}, {"loss": ["1"]}, {1: [1.0]})),
    ("state/iteration", 5),
    ("fingerprint", True),
    ("kinds/optimizer", 3),
    ("LR_Scheduler/last_epoch", DELETE),
    ("LR_Scheduler/last_epoch", "2"),
    ("LR_Scheduler/last_epoch", -1),
    ("ema/step", DELETE),
    ("ema/step", -1),
    ("ema/average", {"0.weight": "text"}),
    ("ema/average/0.weight", DELETE),
    ("ema/average/0.weight", lambda array: array * math.nan),
    ("ema/average/0.weight", lambda array: array.T.copy()),
    ("model/0.weight", DELETE),
    ("model/0.weight", lambda array: array * math.inf),
    ("model/0.weight", lambda array: array[:1].copy()),
    ("model/0.weight", lambda array: array.astype(np.complex64)),
    ("model/more", np.zeros(2, np.float32)),
    ("optimizer/0.weight:velocity", DELETE),
    ("optimizer/0.weight:velocity", "text"),
    ("optimizer/0.weight:velocity", lambda array: array * math.nan),
    ("optimizer/0.weight:velocity", lambda array: array.T.copy()),
    ("scaler/scale", DELETE),
    ("scaler/scale", "64"),
    ("scaler/scale", np.array([math.nan], np.float32)),
    ("scaler/scale", np.array([-1.0], np.float32)),
    ("scaler/scale", np.zeros((0,), np.float32)),
    ("scaler/incr_count", 1 << 2000),
    ("scaler/incr_count", None),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_one_line_names_what_is_wrong(saved: Path, tmp_path: Path, path: str, value: Any) -> None:
    stem = _changed(saved, tmp_path, path, value)
    with pytest.raises(UserError, match=r"0\.pdopt") as caught:
        resume(stem, _parts())
    message = str(caught.value)
    assert len(message) < 500 and "\n" not in message
    assert path.rsplit("/", 1)[-1].partition(":")[0] in message or "not written by this project" in message, message
    assert "-r PATH" in message or "configuration" in message or "pretrain_weights" in message, message


def test_the_search_for_a_checkpoint_passes_over_a_wrong_one(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _changed(saved, tmp_path, "fingerprint", DELETE)
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        find_resumable(tmp_path)
    assert "skipped: " in capsys.readouterr().out
    for suffix in ("pdparams", "pdopt", "safetensors"):
        (tmp_path / f"1.{suffix}").write_bytes(Path(f"{saved}.{suffix}").read_bytes())
    assert find_resumable(tmp_path) == tmp_path / "1"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


def test_damaged_files_end_in_one_line(saved: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    whole = Path(f"{saved}.pdopt").read_bytes()
    file = tmp_path / "x.pdopt"
    file.write_bytes(whole)
    right = read_pdopt(file)
    assert _same(right, read_pdopt(file))
    refused = 0
    for _ in range(400):
        file.write_bytes(mutated(whole, draw))
        try:
            read_pdopt(file)
        except UserError as error:
            refused += 1
            assert "x.pdopt" in str(error)
    assert refused > 200


STEP = {"epoch": 0, "iteration": 1, "step": 1, "seed": 3, "images": ["a.jpg"], "losses": {"loss": "nan"}}

STEPS: dict[str, bytes] = {
    "no object": b"[1]",
    "100,000 deep": b"[" * 100_000,
    "100,000 digits": b'{"epoch": ' + b"9" * 100_000 + b"}",
    "Latin-1": b'{"epoch": "\xe9"}',
    "20 megabytes": b" " * (20 << 20),
    "another key": json.dumps({**STEP, "more": 1}).encode(),
    "a key missing": json.dumps({key: STEP[key] for key in STEP if key != "seed"}).encode(),
    **{
        f"{key} is {value}": json.dumps({**STEP, key: value}).encode()
        for key, value in (
            ("epoch", -1),
            ("iteration", 0),
            ("step", "1"),
            ("seed", 1.5),
            ("rank", 7),
            ("processes", 0),
            ("step", True),
            ("epoch", 1 << 60),
            ("images", "a.jpg"),
            ("images", [1]),
            ("losses", ["nan"]),
            ("losses", {"loss": 1.0}),
        )
    },
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_to_repeat(tmp_path: Path, name: str) -> None:
    file = tmp_path / "nonfinite_1.json"
    file.write_bytes(STEPS[name])
    with pytest.raises(UserError, match=r"cannot read .*nonfinite_1\.json .*--replay takes a nonfinite") as caught:
        BadStep.read(file)
    assert len(str(caught.value)) < 500
    file.write_text(json.dumps(STEP))
    assert BadStep.read(file).images == ["a.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        b"epoch,loss\n1,2\n",
        b"step,loss,loss\n1,2,3\n",
        b"step,\x1b[31m\n1,2\n",
        b"step," + b"x" * 300 + b"\n1,2\n",
        b"step,loss\n1,\xff\n",
        b"step,loss\n1," + b"2" * 200_000 + b"\n",
        b"\0\0\0\0",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_curves_of_something_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train_scalars.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot continue .*train_scalars\.csv .*move it away"):
        ScalarTable(file, before=5)
    assert file.read_bytes() == content


def test_rows_of_curves_that_are_no_numbers_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "train_scalars.csv"
    file.write_bytes(b"step,loss\n1,0.5\nnan,1\ninf,1\n2,x\n3\n4,0.25,7,8\n,\n9,1\n")
    assert ScalarTable(file, before=9).rows == [{"step": 1, "loss": 0.5}, {"step": 3}, {"step": 4, "loss": 0.25}]
