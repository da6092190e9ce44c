"""Averaged weights against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError


class Counter(nn.Layer):
    """One weight, one float buffer, one integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([2], default_initializer=nn.initializer.Constant(1.0))
        self.register_buffer("mean", paddle.zeros([1]))
        self.register_buffer("count", paddle.zeros([1], dtype="int64"))

    def put(self, weight: float, mean: float, count: int) -> None:
        self.weight.set_value(paddle.full([2], weight))
        self.mean.set_value(paddle.full([1], mean))
        self.count.set_value(paddle.full([1], count, dtype="int64"))

    def read(self) -> list[float]:
        return [float(self.weight[0]), self.mean.item(), self.count.item()]


def test_average_of_weights_and_buffers() -> None:
    model = Counter()
    ema = ModelEMA(model, decay=0.75, decay_type="normal")
    model.put(2.0, 8.0, 5)
    ema.update()
    model.put(3.0, 8.0, 6)
    ema.update()
    # 1 -> 1.25 -> 1.6875; 0 -> 2 -> 3.5; integers are copied
    ema.apply()
    assert model.read() == [1.6875, 3.5, 6]
    ema.restore()
    assert model.read() == [3.0, 8.0, 6]


def test_decay_grows_with_the_updates() -> None:
    model = Counter()
    threshold = ModelEMA(model, decay=0.5)
    assert [threshold.decay_at(s) for s in (0, 2, 8, 100)] == [0.1, 0.25, 0.5, 0.5]
    exponential = ModelEMA(model, decay=0.5, decay_type="exponential")
    assert exponential.decay_at(1999) == pytest.approx(0.5 * (1 - math.exp(-1)))


def test_block_restores_after_an_error_and_forbids_updates() -> None:
    model = Counter()
    ema = ModelEMA(model, decay=0.5, decay_type="normal")
    model.put(3.0, 0.0, 1)
    ema.update()
    with pytest.raises(KeyError), ema.applied() as averaged:
        assert averaged.read()[0] == 2.0
        ema.apply()  # a second time changes nothing
        with pytest.raises(RuntimeError, match="restore"):
            ema.update()
        raise KeyError
    assert model.read() == [3.0, 0.0, 1]


def test_resumed_average_continues_exactly() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=8)
    model, again = Counter(), Counter()
    ema = ModelEMA(model, decay=0.9)
    for value in values[:4]:
        model.put(value, value, 1)
        ema.update()
    resumed = ModelEMA(again, decay=0.9)
    resumed.set_state_dict(ema.state_dict())
    for value in values[4:]:
        for net, average in ((model, ema), (again, resumed)):
            net.put(value, value, 2)
            average.update()
    np.testing.assert_array_equal(ema.weights()["weight"].numpy(), resumed.weights()["weight"].numpy())
    assert resumed.step == 8


def test_weights_have_the_models_names_and_types_and_are_no_views() -> None:
    model = Counter()
    ema = ModelEMA(model, decay=0.5)
    weights = ema.weights()
    assert {name: str(value.dtype) for name, value in weights.items()} == {
        name: str(value.dtype) for name, value in model.state_dict().items()
    }
    model.put(9.0, 9.0, 9)
    assert float(ema.weights()["weight"][0]) == 1.0


def test_float32_copies_of_half_precision_weights_are_averaged() -> None:
    model = nn.Linear(2, 2, bias_attr=False)
    model.weight.set_value(np.ones([2, 2], np.float32))
    model.to(dtype="float16")
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters(), multi_precision=True)
    ema = ModelEMA(model, 0.5, "normal", optimizer)
    optimizer._master_weights[model.weight.name] = paddle.full([2, 2], 1.0001)  # float16 knows 1 and 1.001
    ema.update()
    np.testing.assert_allclose(ema.state_dict()["average"]["weight"], np.full([2, 2], 1.00005), rtol=1e-7)


def test_mistakes_are_named() -> None:
    model = Counter()
    with pytest.raises(UserError, match="decay' takes a number of at least 0 and below 1"):
        ModelEMA(model, decay=1.5)
    with pytest.raises(UserError, match="decay_type' takes one of 'threshold'"):
        ModelEMA(model, decay_type="linear")
    ema = ModelEMA(model)
    with pytest.raises(UserError, match="no averaged weights"):
        ema.set_state_dict({})
    state = ema.state_dict()
    state["average"]["mean"] = np.zeros([3], np.float32)
    with pytest.raises(UserError, match=r"'mean' is \[3\]"):
        ema.set_state_dict(state)
    del state["average"]["mean"]
    with pytest.raises(UserError, match="lack 'mean'"):
        ema.set_state_dict(state)
