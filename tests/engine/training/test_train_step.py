"""Loss window, gradient handling."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.engine.precision import Precision
from ppdet.engine.training.checkpoint import RunState, TrainParts
from ppdet.engine.training.loss_window import LossWindow
from ppdet.engine.training.train_step import TrainStep
from ppdet.utils.errors import UserError


def _losses(*values: float) -> dict[str, paddle.Tensor]:
    # a 0-D and a [1] loss, as models give them
    return {"a": paddle.to_tensor(values[0]), "loss": paddle.to_tensor([values[1]])}


def test_window_reads_once_and_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    window = LossWindow()
    reads = []
    plain = paddle.Tensor.numpy
    monkeypatch.setattr(paddle.Tensor, "numpy", lambda self, *a: reads.append(1) or plain(self, *a))
    for step, value in enumerate([1.0, 2.0, 6.0]):
        window.add(_losses(value, 10 * value), RunState(iteration=step + 1), [{"im_path": ["x.jpg"]}])
    assert reads == [] and len(window) == 3
    assert window.read() == {"a": 3.0, "loss": 30.0}
    assert len(reads) == 1 and len(window) == 0 and window.read() == {}


def test_window_names_the_first_broken_step(capsys: pytest.CaptureFixture[str]) -> None:
    window = LossWindow()
    for step, value in enumerate([1.0, float("inf"), float("nan")]):
        window.add(_losses(1.0, value), RunState(epoch=2, iteration=step + 1), [{"im_path": [f"{step}.jpg"]}])
    with pytest.raises(UserError, match="stopped: loss = inf at epoch 3, iteration 2;"):
        window.read()
    assert "not finite: 1.jpg" in capsys.readouterr().out


class _Scale(nn.Layer):
    """loss = w * x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the loss."""
        return {"loss": (self.w * batch["x"]).sum()}


def test_a_step_by_hand() -> None:
    model = _Scale()
    schedule = paddle.optimizer.lr.PiecewiseDecay([1], [0.1, 0.01])
    optimizer = paddle.optimizer.SGD(schedule, parameters=model.parameters())
    step = TrainStep(model, TrainParts(model, optimizer), Precision())
    losses = step([{"x": paddle.to_tensor([3.0])}])
    assert float(losses["loss"]) == 6.0 and losses["loss"].stop_gradient
    assert model.w.item() == pytest.approx(2 - 0.1 * 3)
    # two batches: mean loss, mean gradient, and the schedule has moved on by one
    losses = step([{"x": paddle.to_tensor([1.0])}, {"x": paddle.to_tensor([5.0])}])
    assert float(losses["loss"]) == pytest.approx(1.7 * 3)
    assert model.w.item() == pytest.approx(1.7 - 0.01 * 3)
    assert model.w.grad is None or not np.any(model.w.grad.numpy())
