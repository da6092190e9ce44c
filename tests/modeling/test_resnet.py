"""What is frozen stays as it is, to the bit, whatever modes a training goes through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.modeling.backbones.resnet import ResNet
from ppdet.optimizer import ModelEMA


def _state(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def _train(model: ResNet, wrap: Callable[[nn.Layer], nn.Layer]) -> ModelEMA:
    """Three steps with an evaluation after the first."""
    network = wrap(model)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters(), weight_decay=0.1)
    average = ModelEMA(model, decay=0.7)
    for step in range(3):
        network.train()
        image = np.random.default_rng(step).normal(1.0, 2.0, size=(2, 3, 64, 64)).astype("float32")
        sum((x * x).mean() for x in network(paddle.to_tensor(image))).backward()
        optimizer.step()
        optimizer.clear_grad()
        average.update()
        if step == 0:
            network.eval()
            with paddle.no_grad():
                network(paddle.to_tensor(image))
    return average


@pytest.mark.parametrize("wrap", [lambda model: model, nn.Sequential, paddle.DataParallel])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("freeze_at", [-1, 0, 1])
def test_frozen_stages_do_not_change(freeze_at: int, recompute: bool, wrap: Callable[[nn.Layer], nn.Layer]) -> None:
    paddle.seed(1)
    model = ResNet(depth=18, ch_in=8, freeze_at=freeze_at, norm_eval=False, recompute=recompute)
    before = _state(model)
    average = _train(model, wrap)
    after = _state(model)
    frozen = ("conv1.", "res2.", "res3.")[: freeze_at + 2 if freeze_at >= 0 else 0]
    for name, value in before.items():
        if name.startswith(frozen):
            np.testing.assert_array_equal(after[name], value, err_msg=name)
            np.testing.assert_array_equal(average.weights()[name].numpy(), value, err_msg=f"average of {name}")
        else:
            assert np.abs(after[name] - value).max() > 0, name


@pytest.mark.parametrize("norm_type", ["bn", "sync_bn"])
def test_frozen_normalisation_keeps_its_statistics(norm_type: str) -> None:
    paddle.seed(1)
    model = ResNet(depth=18, ch_in=8, freeze_at=-1, norm_eval=False, freeze_norm=True, norm_type=norm_type)
    before = _state(model)
    _train(model, lambda network: network)
    for name, value in _state(model).items():
        assert np.array_equal(value, before[name]) == (".norm." in name), name


def test_synchronised_normalisation_is_only_where_statistics_train() -> None:
    model = ResNet(depth=18, ch_in=8, freeze_at=1, norm_eval=False, norm_type="sync_bn")
    kinds = {name: type(part) for name, part in model.named_sublayers() if name.endswith("norm")}
    for name, kind in kinds.items():
        assert (kind is nn.SyncBatchNorm) == name.startswith(("res4.", "res5.")), name
