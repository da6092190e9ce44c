"""The tensors of an optimizer in a checkpoint.

They are saved under the names of the model's parameters. The names that Paddle generates depend on what else the
process has built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import Layer
from paddle.optimizer import Optimizer

from ppdet.utils.errors import UserError

__all__ = ["create_accumulators", "fill_optimizer", "optimizer_arrays", "scheduler_of"]


def _accumulator_key(key: str, names: Mapping[str, str]) -> str:
    """Turn Paddle's ``linear_0.w_0_velocity_0`` into ``fc.weight:velocity``.

    Args:
        key: name of an optimizer tensor.
        names: model name by Paddle's parameter name.
    """
    owners = [paddle_name for paddle_name in names if key.startswith(paddle_name + "_")]
    if not owners:
        return key
    owner = max(owners, key=len)
    kind = re.sub(r"^fp32_master_\d+_", "", key[len(owner) + 1 :])
    return f"{names[owner]}:{re.sub(r'_[0-9]+$', '', kind)}"


def optimizer_arrays(model: Layer, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """Copy an optimizer's tensors to the host, by ``<parameter>:<kind>``."""
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    arrays = {}
    for key, value in optimizer.state_dict().items():
        if key == "master_weights":
            arrays.update({f"{names[owner]}:master": np.array(tensor.numpy()) for owner, tensor in value.items()})
        elif isinstance(value, paddle.Tensor):
            arrays[_accumulator_key(key, names)] = np.array(value.numpy(), copy=True)
    return arrays


def create_accumulators(optimizer: Optimizer, model: Layer) -> None:
    """Let the optimizer create its tensors in a step with zero gradients; load weights afterwards, as they change."""
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    paddle.add_n([(parameter.astype("float32") * 0.0).sum() for parameter in parameters]).backward()
    optimizer.step()
    optimizer.clear_grad()


def fill_optimizer(model: Layer, optimizer: Optimizer, content: Mapping[str, Any], file: Path) -> None:
    """Load saved tensors and the position of the schedule into an optimizer that has created its tensors.

    Raises:
        UserError: a tensor of the optimizer is missing in the file or has another shape.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    arrays = content["optimizer"]

    def saved(key: str, tensor: paddle.Tensor) -> np.ndarray:
        array = arrays.get(key)
        if array is None or not (array.shape == tuple(tensor.shape) or array.size == int(np.prod(tensor.shape)) == 1):
            fault = "lacks" if array is None else "has a different shape for"
            raise UserError(f"{file} {fault} the optimizer's '{key}': it belongs to another configuration")
        return np.asarray(array).reshape(tensor.shape)

    state: dict[str, Any] = {}
    if content["LR_Scheduler"] is not None:
        state["LR_Scheduler"] = content["LR_Scheduler"]
    if (content["LR_Scheduler"] is None) != (scheduler_of(optimizer) is None):
        kind = "a constant learning rate" if content["LR_Scheduler"] is None else "a learning rate schedule"
        raise UserError(f"{file} was trained with {kind}: it belongs to another configuration")
    for key, value in optimizer.state_dict().items():
        if key == "master_weights":
            # In place: Paddle would take over the dictionary, and looks up tensors by the name of the float32 copy.
            for owner, tensor in value.items():
                tensor.set_value(saved(f"{names[owner]}:master", tensor))
        elif isinstance(value, paddle.Tensor):
            state[key] = saved(_accumulator_key(key, names), value)
    optimizer.set_state_dict(state)


def scheduler_of(optimizer: Optimizer) -> Any:
    """Return the optimizer's learning rate scheduler, None for a constant rate."""
    rate = optimizer._learning_rate
    return rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None
