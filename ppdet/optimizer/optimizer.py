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
from ppdet.optimizer.clip import ClipByNormOfAll
from ppdet.utils.errors import UserError

__all__ = ["OptimizerBuilder"]

_TYPES = {
    "Momentum": paddle.optimizer.Momentum,
    "SGD": paddle.optimizer.SGD,
    "Adam": paddle.optimizer.Adam,
    "AdamW": paddle.optimizer.AdamW,
}
_REGULARIZERS = {"L2": paddle.regularizer.L2Decay, "L1": paddle.regularizer.L1Decay}
_OURS = ("learning_rate", "parameters", "grad_clip", "name", "apply_decay_param_fun")
_NORMS = (nn.layer.norm._BatchNormBase, nn.layer.norm._InstanceNormBase, nn.GroupNorm, nn.LayerNorm)
_EXTRA = ("type", "param_groups", "filter_bias_and_bn")
_DEFAULT_OPTIMIZER = MappingProxyType({"type": "Momentum", "momentum": 0.9})
_DEFAULT_REGULARIZER = MappingProxyType({"type": "L2", "factor": 0.0001})


@register
class OptimizerBuilder:
    """Builds the optimizer of a training.

    Args:
        clip_grad_by_norm: largest norm of all gradients together; None does not clip.
        clip_grad_by_value: largest absolute value of a gradient's element; excludes ``clip_grad_by_norm``.
        regularizer: ``{type: L2 or L1, factor}``, weight decay on every parameter, norms and biases included unless
            ``filter_bias_and_bn`` is set; None or false: none. By default L2 with 1e-4, unless the optimizer has a
            ``weight_decay`` of its own.
        optimizer: ``{type: Momentum, SGD, Adam or AdamW, …}`` with arguments of Paddle's class of that name, and
            ``param_groups``: a list of ``{params: [texts], learning_rate: factor, weight_decay: value}`` for the
            parameters whose names contain one of the texts (the first group that fits takes a parameter). The
            factor comes on top of a parameter's own, such as ``ResNet.lr_mult_list``. ``filter_bias_and_bn: true``
            leaves every bias, and scale and shift of every normalisation, without weight decay, except those of a
            group with a ``weight_decay`` of its own.

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
        self.filter_bias_and_bn = arguments.pop("filter_bias_and_bn", False)
        if not isinstance(self.filter_bias_and_bn, bool):
            raise UserError(
                f"'OptimizerBuilder.optimizer.filter_bias_and_bn' takes true or false, got {self.filter_bias_and_bn!r}"
            )
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
        trainable = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
        if not trainable:
            raise UserError("the model has no trainable parameter: everything in it is frozen")
        every = list(trainable.values())
        groups = self._groups(trainable)
        spared = self._spared(model, groups) if self.filter_bias_and_bn else set()
        if spared and self.type == "AdamW":
            arguments["apply_decay_param_fun"] = lambda name: name not in spared
        own = [(value, value.optimize_attr["learning_rate"], value.regularizer) for value in every]
        optimizer: Optimizer = _TYPES[self.type](
            learning_rate=learning_rate,
            parameters=[dict(group) for group in groups] if self.param_groups else every,  # Paddle adds to them
            grad_clip=self._clip(every),
            **arguments,
        )
        if self.param_groups:
            self._restore(own, groups)
        if self.type != "AdamW":
            for value in every:
                if value.name in spared:
                    value.regularizer = paddle.regularizer.L2Decay(0.0)
        return optimizer

    def _clip(self, every: list[Any]) -> Any:
        if self.clip_grad_by_value is not None:
            return nn.ClipGradByValue(self.clip_grad_by_value)
        if self.clip_grad_by_norm is None:
            return None
        if self.param_groups:
            return ClipByNormOfAll(self.clip_grad_by_norm, every)
        return nn.ClipGradByGlobalNorm(self.clip_grad_by_norm)

    @staticmethod
    def _restore(own: list[tuple[Any, float, Any]], groups: list[dict[str, Any]]) -> None:
        """Put back what Paddle overwrites with a group's: a parameter's own factor of the rate and weight decay."""
        group_of = {id(value): group for group in groups for value in group["params"]}
        for value, factor, regularizer in own:
            group = group_of[id(value)]
            value.optimize_attr["learning_rate"] = factor * group.get("learning_rate", 1.0)
            if regularizer is not None and "weight_decay" not in group:
                value.regularizer = regularizer

    @staticmethod
    def _spared(model: nn.Layer, groups: list[dict[str, Any]]) -> set[str]:
        """Paddle's names of the parameters that ``filter_bias_and_bn`` leaves without weight decay."""
        decided = {value.name for group in groups if "weight_decay" in group for value in group["params"]}
        norms = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, _NORMS)]
        spared = {value.name for layer in norms for value in layer.parameters(include_sublayers=False)}
        spared |= {value.name for name, value in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
        return spared - decided

    def _groups(self, trainable: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the trainable parameters as groups of Paddle's; those that no group takes come last."""
        rest = dict(trainable)
        groups: list[dict[str, Any]] = []
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
            raise UserError(f"unknown key '{path}': {kind} does not take it{hint(key, [*valid, *_EXTRA])}")
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
    # Paddle takes an integer for a weight decay as a regularizer.
    return [{key: value if key == "params" else float(value) for key, value in group.items()} for group in groups]
