"""Exponential moving average of a model's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from ppdet.core.config.ranges import DecayType, FractionBelowOne
from ppdet.core.registry import checks_arguments
from ppdet.utils.errors import UserError

__all__ = ["ModelEMA"]


@checks_arguments
class ModelEMA:
    """Keeps a moving average of all floating point weights and buffers of a model in float32.

    After each optimizer step: average = d * average + (1 - d) * weight. The average of a frozen weight is exactly the
    weight. Buffers of other types are copied.

    Args:
        model: the model being trained.
        decay: limit of d for a long training.
        decay_type: how d depends on the number s of earlier updates. ``threshold``: min(decay, (1 + s) / (10 + s));
            ``exponential``: decay * (1 - exp(-(s + 1) / 2000)); ``normal``: decay from the start.
        optimizer: of the model. If the weights are in half precision, the optimizer's float32 copies are averaged.

    Raises:
        ParameterError: decay outside of [0, 1), or an unknown type.
    """

    def __init__(
        self,
        model: nn.Layer,
        decay: FractionBelowOne = 0.9998,
        decay_type: DecayType = "threshold",
        optimizer: Optimizer | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.decay = float(decay)
        self.decay_type = decay_type
        self.step = 0
        self._average = {name: _snapshot(value) for name, value in model.state_dict().items()}
        self._backup: dict[str, paddle.Tensor] = {}

    def decay_at(self, step: int) -> float:
        """Return d for the update that follows ``step`` earlier updates."""
        if self.decay_type == "threshold":
            return min(self.decay, (1 + step) / (10 + step))
        if self.decay_type == "exponential":
            return self.decay * (1.0 - math.exp(-(step + 1) / 2000))
        return self.decay

    @paddle.no_grad()
    def update(self) -> None:
        """Update the average with the current weights; nothing is copied to the host.

        Raises:
            RuntimeError: the model currently holds the average (between ``apply`` and ``restore``).
        """
        if self._backup:
            raise RuntimeError("the model holds its averaged weights; restore() them before training on")
        decay = self.decay_at(self.step)
        masters = getattr(self.optimizer, "_master_weights", {})
        for name, value in self.model.state_dict().items():
            average = self._average[name]
            value = masters.get(value.name, value)
            if _is_float(value):
                # The difference is exactly zero for weights that do not change.
                average.add_((value.detach().astype("float32") - average) * (1.0 - decay))
            else:
                average.set_value(value.detach())
        self.step += 1

    @paddle.no_grad()
    def apply(self) -> None:
        """Put the average into the model for an evaluation; ``restore`` undoes it. A second call has no effect."""
        if self._backup:
            return
        state = self.model.state_dict()
        self._backup = {name: value.detach().clone() for name, value in state.items()}
        for name, value in state.items():
            value.set_value(self._average[name].astype(value.dtype))

    @paddle.no_grad()
    def restore(self) -> None:
        """Put exactly the training weights back into the model; without an earlier ``apply`` this has no effect."""
        for name, value in self.model.state_dict().items():
            if name in self._backup:
                value.set_value(self._backup[name])
        self._backup = {}

    @contextmanager
    def applied(self) -> Iterator[nn.Layer]:
        """Let the model hold the average inside the ``with`` block; the training weights are always restored."""
        self.apply()
        try:
            yield self.model
        finally:
            self.restore()

    def weights(self) -> dict[str, paddle.Tensor]:
        """Return the average with the names and data types of the model's state: the weights of a checkpoint."""
        state = self.model.state_dict()
        return {name: average.astype(state[name].dtype) for name, average in self._average.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return ``{'step': int, 'average': {name: float32 array}}``, which is enough to resume the training."""
        return {"step": self.step, "average": {name: value.numpy() for name, value in self._average.items()}}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict()``.

        Raises:
            UserError: the state belongs to another model; the message names the first tensor that differs.
        """
        average, step = state.get("average"), state.get("step")
        if not isinstance(average, Mapping) or not isinstance(step, int):
            raise UserError(
                "the checkpoint has no averaged weights to resume from; train without use_ema or start a new training"
            )
        for name, value in self._average.items():
            if name not in average:
                raise UserError(f"the checkpoint's averaged weights lack '{name}'")
            if list(np.shape(average[name])) != list(value.shape):
                raise UserError(
                    f"averaged weight '{name}' is {list(np.shape(average[name]))} in the checkpoint, "
                    f"{list(value.shape)} in the model"
                )
        for name, value in self._average.items():
            value.set_value(np.asarray(average[name]))
        self.step = step


def _is_float(value: paddle.Tensor) -> bool:
    return value.dtype in (paddle.float32, paddle.float64, paddle.float16, paddle.bfloat16)


def _snapshot(value: paddle.Tensor) -> paddle.Tensor:
    copied = value.detach().astype("float32") if _is_float(value) else value.detach()
    # astype to the same data type may return the same tensor
    return copied.clone()
