"""Steps that are not finite: stopped at, or taken back; written down and repeated."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import paddle
import pytest
from fakes import make_trainer

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state
from ppdet.engine.precision import Precision
from ppdet.engine.training import checkpoint
from ppdet.engine.training.checkpoint import TrainParts
from ppdet.engine.training.loss_window import STEP_DONE, LossWindow
from ppdet.engine.training.nonfinite import BadStep, StepGuard
from ppdet.engine.training.start import build_parts
from ppdet.engine.training.train_step import TrainStep
from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")

NAN = float("nan")


def _batch(value: float) -> dict[str, Any]:
    images = np.random.default_rng(3).normal(size=(4, 4)).astype("float32") * value
    return {"image": paddle.to_tensor(images), "target": paddle.ones([4, 1]), "im_path": ["a.jpg"]}


def _everything(parts: TrainParts) -> dict[str, np.ndarray]:
    """Weights, buffers and the optimizer's tensors."""
    tensors = {**parts.model.state_dict(), **parts.optimizer.state_dict()}
    return {name: np.array(t.numpy()) for name, t in tensors.items() if isinstance(t, paddle.Tensor)}


@pytest.mark.parametrize("kind", ["Momentum", "AdamW"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_bad_step_leaves_no_trace(kind: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    paddle.seed(1)
    model = fakes.FakeNet()
    schedule = paddle.optimizer.lr.StepDecay(0.1, step_size=1, gamma=0.5)
    arguments = {"momentum": 0.9} if kind == "Momentum" else {}
    optimizer = getattr(paddle.optimizer, kind)(
        learning_rate=schedule, parameters=model.parameters(), weight_decay=0.01, **arguments
    )
    parts = TrainParts(model, optimizer, ModelEMA(model, 0.5, "normal"))
    step = TrainStep(model, parts, Precision(), StepGuard(parts))
    for _ in range(first):
        assert bool(step([_batch(1.0)])[STEP_DONE])
    before = _everything(parts)
    if first:  # from the second step on nothing is read from the device
        for name in ("numpy", "item", "__bool__", "__float__", "tolist"):
            monkeypatch.setattr(paddle.Tensor, name, lambda self, *a: pytest.fail("a host read"))
    losses = step([_batch(NAN)])
    monkeypatch.undo()
    assert not bool(losses[STEP_DONE]) and np.isnan(float(losses["loss"]))
    after = _everything(parts)
    assert after.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert schedule.last_epoch == first + 1, "the schedule goes by the number of the step"
    assert all(np.isfinite(value.numpy()).all() for value in parts.ema.weights().values())  # type: ignore[union-attr]
    assert bool(step([_batch(1.0)])[STEP_DONE])
    assert not np.array_equal(_everything(parts)["head.weight"], before["head.weight"]), "it goes on"


def test_a_bad_gradient_alone_is_a_bad_step() -> None:
    model = paddle.nn.Linear(1, 1)
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    parts = TrainParts(model, optimizer)

    def network(batch: dict[str, Any]) -> dict[str, Any]:
        return {"loss": paddle.sqrt(model(batch["x"]) * 0).sum()}  # value 0, slope infinite times 0

    weight = model.weight.numpy()
    losses = TrainStep(network, parts, Precision(), StepGuard(parts))([{"x": paddle.ones([1, 1])}])  # type: ignore[arg-type]
    assert float(losses["loss"]) == 0 and not bool(losses[STEP_DONE])
    np.testing.assert_array_equal(model.weight.numpy(), weight)


def test_allowed_number_of_bad_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"FakeNet": {"blow_up_at": 3}, "max_nonfinite_steps": 1}
    trainer = make_trainer(tmp_path, **settings)
    trainer.train()
    assert "step skipped: loss_fit = nan" in capsys.readouterr().out
    state = load_pickle(trainer.folder / "model_final.pdopt")["state"]
    assert state["skipped"] == 1 and state["step"] == 8
    assert all(np.isfinite(array).all() for array in read_state(trainer.folder / "model_final").values())
    bad = json.loads((trainer.folder / "nonfinite_3.json").read_text())
    assert (bad["epoch"], bad["iteration"], bad["step"], bad["seed"]) == (0, 3, 3, 5)
    assert bad["losses"] == {"loss_fit": "nan", "loss_twice": "nan", "loss": "nan"} and len(bad["images"]) == 2
    trainer = make_trainer(tmp_path / "again", **settings)
    forward = trainer.model.forward
    calls: list[int] = []

    def often(batch: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        losses = forward(batch)
        return {name: value * NAN for name, value in losses.items()} if len(calls) in (2, 7) else losses

    trainer.model.forward = often
    with pytest.raises(
        UserError, match=r"stopped: .*loss = nan at epoch 1, iteration 3; .*--replay .*nonfinite_3\.json"
    ):
        trainer.train()
    assert (trainer.folder / "nonfinite_2.json").is_file() and not list(trainer.folder.glob("*.pdopt"))


def test_mean_of_a_window_is_of_its_good_steps() -> None:
    window = LossWindow(allowed=2)
    for value, good in [(1.0, True), (NAN, False), (5.0, True), (7.0, False)]:
        window.add({"loss": paddle.to_tensor(value), STEP_DONE: paddle.to_tensor(good)}, checkpoint.RunState(), [{}])
    assert window.read() == {"loss": 3.0}
    window.add({"loss": paddle.to_tensor(1.0), STEP_DONE: paddle.to_tensor(False)}, checkpoint.RunState(), [{}])
    with pytest.raises(UserError, match="a gradient or the loss of another process is not finite at epoch 1"):
        window.read()


@pytest.mark.parametrize("culprit", ["head.weight", "head.bias:velocity"])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, culprit: str) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    kept = {file.name: file.read_bytes() for file in trainer.folder.glob("model_final.*")}
    parts = build_parts(trainer.config, trainer.model, trainer.precision, 4, 8, 2)
    sum(parameter.sum() for parameter in trainer.model.parameters()).backward()
    parts.optimizer.step()
    bias = trainer.model.head.bias.name
    velocity = next(value for key, value in parts.optimizer.state_dict().items() if key.startswith(bias))
    victim = velocity if ":" in culprit else trainer.model.head.weight
    victim.set_value(np.full(victim.shape, np.inf, np.float32))
    with pytest.raises(
        UserError, match=f"{culprit} is not finite .before the first epoch., .*model_final is not saved"
    ):
        checkpoint.save_checkpoint(trainer.folder / "model_final", parts, checkpoint.RunState())
    assert kept == {file.name: file.read_bytes() for file in trainer.folder.glob("model_final.*")}


def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_trainer(tmp_path, epoch=1).train()
    run = tmp_path / "output" / "fake"
    trainer = make_trainer(tmp_path, FakeNet={"blow_up_at": 2}, epoch=2)
    with pytest.raises(UserError, match="epoch 2, iteration 2"):
        trainer.train(resume_from=str(run / "model_final"))
    file = run / "nonfinite_6.json"
    images = BadStep.read(file).images
    capsys.readouterr()
    trainer = make_trainer(tmp_path, FakeNet={"blow_up_at": 1})
    trainer.replay(str(file), str(run / "model_final"))
    printed = capsys.readouterr().out
    assert f"step 6 again, on {', '.join(images)}" in printed and "loss_fit = nan" in printed
    assert "gradient is not finite: backbone.0.weight" in printed
    trainer = make_trainer(tmp_path)
    trainer.replay(str(file))
    printed = capsys.readouterr().out
    assert "nan" not in printed and "not finite: none" in printed
    # with the weights of the moment before, the losses are the training's own
    plain = make_trainer(tmp_path / "plain", log_iter=1)
    plain.train()
    with open(plain.folder / "train_scalars.csv", newline="") as stream:
        fifth = list(csv.DictReader(stream))[4]
    with pytest.raises(UserError, match="epoch 2, iteration 1"):
        make_trainer(tmp_path, FakeNet={"blow_up_at": 1}).train(resume_from=str(run / "model_final"))
    capsys.readouterr()
    make_trainer(tmp_path).replay(str(run / "nonfinite_5.json"))
    found = re.search(r"losses: .*, loss = (\S+)", capsys.readouterr().out)
    assert found and f"{float(found[1]):.7g}" == fifth["loss"]
    with pytest.raises(UserError, match="cannot read .*config.yml"):
        make_trainer(tmp_path).replay(str(run / "config.yml"))
    monkeypatch.setattr(fakes.FakeDataset, "__len__", lambda self: 6)
    with pytest.raises(UserError, match="step 6 now has other images"):
        make_trainer(tmp_path).replay(str(file))
