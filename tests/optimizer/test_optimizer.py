"""One optimizer step against values worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.core.workspace import create, load_config, merge_config
from ppdet.optimizer import LearningRate, OptimizerBuilder
from ppdet.utils.cli import parse_overrides
from ppdet.utils.errors import UserError


class Pair(nn.Layer):
    """Two scalars of which the loss is a*3 + b*4: gradients 3 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.norm_bias = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def values(self) -> np.ndarray:
        return np.array([self.weight.item(), self.norm_bias.item()])

    def step(self, optimizer) -> np.ndarray:
        (self.weight * 3.0 + self.norm_bias * 4.0).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        return self.values()


def test_momentum_decays_every_parameter() -> None:
    model = Pair()
    optimizer = OptimizerBuilder(regularizer={"type": "L2", "factor": 0.5})(0.1, model)
    # gradients 3 + 0.5*1 and 4 + 0.5*2
    np.testing.assert_allclose(model.step(optimizer), [1 - 0.35, 2 - 0.5], rtol=1e-6)
    # velocity 0.9*3.5 + 3 + 0.5*0.65, 0.9*5 + 4 + 0.5*1.5
    np.testing.assert_allclose(model.step(optimizer), [0.65 - 0.6475, 1.5 - 0.925], rtol=1e-4)


def test_default_weight_decay_is_1e_4() -> None:
    model = Pair()
    optimizer = OptimizerBuilder()(1.0, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 3.0001, 2 - 4.0002], rtol=1e-6)


@pytest.mark.parametrize("off", [None, False])
def test_clipping_is_by_the_norm_of_all_gradients_together(off) -> None:
    model = Pair()
    optimizer = OptimizerBuilder(clip_grad_by_norm=1.0, regularizer=off)(1.0, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 0.6, 2 - 0.8], rtol=1e-5)


def test_clipping_by_value() -> None:
    model = Pair()
    optimizer = OptimizerBuilder(clip_grad_by_value=3.5, regularizer=None)(1.0, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 3.0, 2 - 3.5], rtol=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_other_types_step(kind: str) -> None:
    model = Pair()
    arguments = {"type": kind, **({"weight_decay": 0.1} if kind == "AdamW" else {})}
    optimizer = OptimizerBuilder(regularizer=None, optimizer=arguments)(0.01, model)
    # Adam's first step has the size of the rate; AdamW shrinks the weight by rate * decay before it
    expected = {"SGD": [0.97, 1.96], "Adam": [0.99, 1.99], "AdamW": [0.999 - 0.01, 1.998 - 0.01]}[kind]
    np.testing.assert_allclose(model.step(optimizer), expected, rtol=1e-5)


def test_parameter_groups_have_their_own_decay_and_rate() -> None:
    model = Pair()
    groups = [{"params": ["norm", "bn"], "weight_decay": 0.0, "learning_rate": 0.5}]
    optimizer = OptimizerBuilder(
        regularizer={"type": "L2", "factor": 0.5}, optimizer={"type": "SGD", "param_groups": groups}
    )(0.1, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 0.35, 2 - 0.05 * 4], rtol=1e-6)


def test_clipping_by_norm_sees_all_groups_at_once() -> None:
    """Paddle would clip each group by its own norm: 3 and 4 would both become 1."""
    groups = [{"params": ["norm"], "learning_rate": 0.5}]
    for limit, factor in ((1.0, 0.2), (10.0, 1.0)):
        model = Pair()
        settings = {"type": "SGD", "param_groups": groups}
        optimizer = OptimizerBuilder(
            clip_grad_by_norm=limit, regularizer={"type": "L2", "factor": 0.5}, optimizer=settings
        )
        # decay joins after clipping, as without groups
        expected = [1 - 0.1 * (3 * factor + 0.5), 2 - 0.05 * (4 * factor + 1.0)]
        np.testing.assert_allclose(model.step(optimizer(0.1, model)), expected, rtol=1e-6)


def test_groups_keep_what_parameters_have_of_their_own() -> None:
    """A stage's multiplier of the rate and a normalisation's decay, which Paddle's groups overwrite."""
    model = Pair()
    model.norm_bias.optimize_attr["learning_rate"] = 0.1
    model.norm_bias.regularizer = paddle.regularizer.L2Decay(0.0)
    groups = [{"params": ["weight"], "weight_decay": 0}]  # an integer, of which Paddle would make nothing good
    optimizer = OptimizerBuilder(
        regularizer={"type": "L2", "factor": 0.5}, optimizer={"type": "Momentum", "param_groups": groups}
    )(0.1, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 0.3, 2 - 0.01 * 4], rtol=1e-6)
    model = Pair()
    model.norm_bias.optimize_attr["learning_rate"] = 0.1
    groups = [{"params": ["norm"], "learning_rate": 0.5}]
    optimizer = OptimizerBuilder(regularizer=None, optimizer={"type": "SGD", "param_groups": groups})(0.1, model)
    np.testing.assert_allclose(model.step(optimizer), [1 - 0.3, 2 - 0.1 * 0.05 * 4], rtol=1e-6)


class Normed(nn.Layer):
    """A weight, a bias and a group normalisation, of which the loss is the sum times 2."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, weight_attr=nn.initializer.Constant(1.0), bias_attr=nn.initializer.Constant(1.0))
        self.norm = nn.GroupNorm(1, 2)
        self.norm.bias.set_value(paddle.ones([2]))

    def step(self, optimizer) -> dict[str, float]:
        sum(2.0 * parameter.sum() for parameter in self.parameters()).backward()
        optimizer.step()
        optimizer.clear_grad()
        return {name: float(parameter.flatten()[0]) for name, parameter in self.named_parameters()}


@pytest.mark.parametrize("kind", ["Momentum", "SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("grouped", [False, True])
def test_norms_and_biases_without_decay(kind: str, grouped: bool) -> None:
    def stepped(spare: bool) -> dict[str, float]:
        arguments = {"type": kind, "filter_bias_and_bn": spare}
        if grouped:
            arguments["param_groups"] = [{"params": ["norm.bias"], "weight_decay": 0.25}, {"params": ["fc"]}]
        if kind == "AdamW":
            arguments["weight_decay"] = 0.5
        decay = None if kind == "AdamW" else {"type": "L2", "factor": 0.5}
        model = Normed()
        return model.step(OptimizerBuilder(regularizer=decay, optimizer=arguments)(0.1, model))

    # All start at 1 with gradient 2. Adam's first step has the size of the rate whatever the gradient.
    def moved(decay: float) -> float:
        if kind == "AdamW":
            return 1 - 0.1 * decay - 0.1
        return 1 - 0.1 if kind == "Adam" else 1 - 0.1 * (2 + decay)

    own = 0.25 if grouped else None
    expected = {"fc.weight": 0.5, "fc.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0 if own is None else own}
    for name, value in stepped(True).items():
        assert value == pytest.approx(moved(expected[name]), rel=1e-5), name
    expected = {"fc.weight": 0.5, "fc.bias": 0.5, "norm.weight": 0.5, "norm.bias": 0.5 if own is None else own}
    for name, value in stepped(False).items():
        assert value == pytest.approx(moved(expected[name]), rel=1e-5), name


def test_frozen_parameters_stay() -> None:
    model = Pair()
    model.weight.stop_gradient = True
    optimizer = OptimizerBuilder(regularizer=None)(0.1, model)
    np.testing.assert_allclose(model.step(optimizer), [1.0, 1.6], rtol=1e-6)
    model.norm_bias.stop_gradient = True
    with pytest.raises(UserError, match="no trainable parameter"):
        OptimizerBuilder()(0.1, model)


def test_scheduler_drives_the_optimizer_and_both_resume() -> None:
    model = Pair()
    scheduler = LearningRate(0.02)(100)
    optimizer = OptimizerBuilder()(scheduler, model)
    for _ in range(3):
        model.step(optimizer)
        scheduler.step()
    again_model, again_scheduler = Pair(), LearningRate(0.02)(100)
    again = OptimizerBuilder()(again_scheduler, again_model)
    again.set_state_dict(optimizer.state_dict())
    assert again.get_lr() == optimizer.get_lr() == scheduler()
    assert again_scheduler.last_epoch == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": {"type": "Momentun"}}, "did you mean 'Momentum'"),
        ({"optimizer": {"type": "Momentum", "momentun": 0.9}}, r"optimizer\.momentun'.*did you mean 'momentum'"),
        (
            {"optimizer": {"type": "Momentum", "momentum": "high"}},
            "takes a number of at least 0 and below 1, got 'high'",
        ),
        ({"optimizer": {"type": "Momentum", "use_nesterov": 1}}, "takes true or false"),
        ({"optimizer": {"type": "AdamW"}, "regularizer": {"type": "L2", "factor": 0.1}}, "regularizer' to null"),
        ({"regularizer": {"type": "L3", "factor": 0.1}}, r"regularizer\.type' takes one of 'L2', 'L1', got 'L3'"),
        ({"regularizer": {"factr": 0.1}}, "did you mean 'factor'"),
        ({"regularizer": {"type": "L2"}}, "regularizer' needs a factor"),
        ({"regularizer": True}, "false or null, got true"),
        ({"clip_grad_by_norm": 0.0}, "clip_grad_by_norm' takes a number above 0"),
        ({"clip_grad_by_norm": 1.0, "clip_grad_by_value": 1.0}, "not both"),
        ({"optimizer": {"type": "SGD", "filter_bias_and_bn": 1}}, "filter_bias_and_bn' takes true or false"),
        ({"optimizer": {"type": "SGD", "filter_bias_and_bm": True}}, "did you mean 'filter_bias_and_bn'"),
        (
            {"optimizer": {"type": "SGD", "param_groups": [{"names": []}]}},
            r"unknown key '.*param_groups\.0\.names'.*valid: learning_rate, params",
        ),
        ({"optimizer": {"type": "SGD", "param_groups": [{"params": [], "weight_decy": 1}]}}, "'weight_decay'"),
    ],
)
def test_mistakes_are_named(arguments, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerBuilder(**arguments)


def test_group_that_fits_nothing_is_named() -> None:
    builder = OptimizerBuilder(optimizer={"type": "SGD", "param_groups": [{"params": ["bn"]}]})
    with pytest.raises(UserError, match="bn"):
        builder(0.1, Pair())


def test_from_yaml_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "optimizer.yml"
    path.write_text(
        """
epoch: 12
LearningRate:
  base_lr: 0.02
  schedulers:
  - !PiecewiseDecay
    gamma: 0.1
    milestones: [8, 11]
  - !LinearWarmup {start_factor: 0.001, steps: 500}
OptimizerBuilder:
  clip_grad_by_norm: 35.0
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0001, type: L2}
"""
    )
    config = load_config(str(path))
    merge_config(
        parse_overrides(["LearningRate.base_lr=1e-3", "LearningRate.schedulers.LinearWarmup.steps=3", "epoch=2"]),
        config,
    )
    scheduler = create(config, "LearningRate")(10)
    optimizer = create(config, "OptimizerBuilder")(scheduler, Pair())
    assert isinstance(optimizer, paddle.optimizer.Momentum)
    assert scheduler() == pytest.approx(1e-6)
    scheduler.step(2)
    assert scheduler() == pytest.approx(1e-3)
    scheduler.step(110)
    assert scheduler() == pytest.approx(1e-5)
