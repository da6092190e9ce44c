"""Optimizers as configurations name them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import paddle
from paddle import nn
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler

from ppdet.core.config.errors import hint
from ppdet.core.workspace import register
from ppdet.utils.errors import UserError

__all__ = ["OptimizerBuilder"]

_TYPES = {
    "Momentum": paddle.optimizer.Momentum,
    "SGD": paddle.optimizer.SGD,
    "Adam": paddle.optimizer.Adam,
    "AdamW": paddle.optimizer.AdamW,
}
_REGULARIZERS = {"L2": paddle.regularizer.L2Decay, "L1": paddle.regularizer.L1Decay}
_OURS = ("learning_rate", "parameters", "grad_clip", "name")
_DEFAULT_OPTIMIZER = MappingProxyType({"type": "Momentum", "momentum": 0.9})
_DEFAULT_REGULARIZER = MappingProxyType({"type": "L2", "factor": 0.0001})


@register
class OptimizerBuilder:
    """Builds the optimizer of a training.

    Args:
        clip_grad_by_norm: largest norm of all gradients together; None does not clip.
        clip_grad_by_value: largest absolute value of a gradient's element; excludes ``clip_grad_by_norm``.
        regularizer: ``{type: L2 or L1, factor}``, weight decay on every parameter, norms and biases included;
            None or false: none. By default L2 with 1e-4, unless the optimizer has a ``weight_decay`` of its own.
        optimizer: ``{type: Momentum, SGD, Adam or AdamW, …}`` with arguments of Paddle's class of that name, and
            ``param_groups``: a list of ``{params: [texts], learning_rate: factor, weight_decay: value}`` for the
            parameters whose names contain one of the texts (the first group that fits takes a parameter).

    Raises:
        UserError: an unknown type or argument, two weight decays, two kinds of clipping.
    """

    def __init__(
        self,
        clip_grad_by_norm: float | None = None,
        clip_grad_by_value: float | None = None,
        regularizer: Mapping[str, Any] | bool | None = _DEFAULT_REGULARIZER,
        optimizer: Mapping[str, Any] = _DEFAULT_OPTIMIZER,
    ) -> None:
        if clip_grad_by_norm is not None and clip_grad_by_value is not None:
            raise UserError("OptimizerBuilder takes clip_grad_by_norm or clip_grad_by_value, not both")
        self.clip_grad_by_norm = _positive("clip_grad_by_norm", clip_grad_by_norm)
        self.clip_grad_by_value = _positive("clip_grad_by_value", clip_grad_by_value)
        arguments = dict(optimizer)
        self.type = arguments.pop("type", "Momentum")
        if self.type not in _TYPES:
            raise UserError(f"unknown OptimizerBuilder.optimizer.type '{self.type}'{hint(str(self.type), _TYPES)}")
        self.param_groups = _check_groups(arguments.pop("param_groups", None))
        _check_arguments(self.type, arguments)
        self.arguments = arguments
        self.regularizer = self._regularizer(regularizer)

    def _regularizer(self, regularizer: Mapping[str, Any] | bool | None) -> Any:
        if regularizer is True:
            raise UserError("OptimizerBuilder.regularizer takes {type: L2, factor: 0.0001}, null or false")
        decoupled = self.type == "AdamW" or "weight_decay" in self.arguments
        if not regularizer or (decoupled and regularizer is _DEFAULT_REGULARIZER):
            return None
        if decoupled:
            raise UserError(
                f"{self.type} has its weight decay as OptimizerBuilder.optimizer.weight_decay: "
                "set OptimizerBuilder.regularizer to null"
            )
        entries = dict(regularizer)
        kind, factor = entries.pop("type", "L2"), entries.pop("factor", None)
        if entries:
            key = next(iter(entries))
            raise UserError(f"unknown key 'OptimizerBuilder.regularizer.{key}'{hint(key, ('type', 'factor'))}")
        if kind not in _REGULARIZERS:
            raise UserError(f"unknown OptimizerBuilder.regularizer.type '{kind}'{hint(str(kind), _REGULARIZERS)}")
        if not _is_number(factor) or factor < 0:
            raise UserError(f"OptimizerBuilder.regularizer.factor takes a number >= 0, got {factor!r}")
        return _REGULARIZERS[kind](float(factor))

    def __call__(self, learning_rate: LRScheduler | float, model: nn.Layer) -> Optimizer:
        """Return the optimizer of the model's trainable parameters.

        Args:
            learning_rate: scheduler or constant.
            model: its parameters with ``stop_gradient`` False are optimised.

        Raises:
            UserError: nothing to train, or a parameter group that fits no parameter.
        """
        arguments = dict(self.arguments)
        if self.regularizer is not None:
            arguments["weight_decay"] = self.regularizer
        if self.clip_grad_by_norm is not None:
            arguments["grad_clip"] = nn.ClipGradByGlobalNorm(self.clip_grad_by_norm)
        elif self.clip_grad_by_value is not None:
            arguments["grad_clip"] = nn.ClipGradByValue(self.clip_grad_by_value)
        parameters = self._parameters(model)
        return _TYPES[self.type](learning_rate=learning_rate, parameters=parameters, **arguments)

    def _parameters(self, model: nn.Layer) -> list[Any]:
        """Return the trainable parameters, as dicts of Paddle's where there are groups; those in no group come last."""
        rest = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
        if not rest:
            raise UserError("the model has no trainable parameter: everything in it is frozen")
        if not self.param_groups:
            return list(rest.values())
        groups: list[Any] = []
        for group in self.param_groups:
            names = [name for name in rest if any(text in name for text in group["params"])]
            if not names:
                raise UserError(f"OptimizerBuilder.optimizer.param_groups: no parameter's name has {group['params']}")
            groups.append({**group, "params": [rest.pop(name) for name in names]})
        return [*groups, {"params": list(rest.values())}] if rest else groups


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise UserError(f"OptimizerBuilder.{name} must be positive, got {value}; null does not clip")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_arguments(kind: str, arguments: dict[str, Any]) -> None:
    """Check names against Paddle's constructor, and numbers and flags against its defaults."""
    signature = inspect.signature(_TYPES[kind].__init__).parameters
    valid = [name for name in signature if name not in ("self", *_OURS)]
    for key, value in arguments.items():
        path = f"OptimizerBuilder.optimizer.{key}"
        if key not in valid:
            raise UserError(
                f"unknown key '{path}': {kind} does not take it{hint(key, [*valid, 'type', 'param_groups'])}"
            )
        default = signature[key].default
        if isinstance(default, bool) and not isinstance(value, bool):
            raise UserError(f"'{path}' takes true or false, got {value!r}")
        if (key == "weight_decay" or type(default) is float) and not _is_number(value):
            raise UserError(f"'{path}' takes a number, got {value!r}")


def _check_groups(groups: Any) -> list[dict[str, Any]]:
    path = "OptimizerBuilder.optimizer.param_groups"
    if groups is None:
        return []
    if not isinstance(groups, list):
        raise UserError(f"{path} takes a list, got {groups!r}")
    allowed = ("params", "learning_rate", "weight_decay")
    for group in groups:
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
            raise UserError(f"{path}: a group is {{params: [texts], learning_rate: …, weight_decay: …}}, got {group!r}")
        for key, value in group.items():
            if key not in allowed:
                raise UserError(f"unknown key '{path}.{key}'{hint(key, allowed)}")
            if key != "params" and not _is_number(value):
                raise UserError(f"{path}.{key} takes a number, got {value!r}")
    return [dict(group) for group in groups]
