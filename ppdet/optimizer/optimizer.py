"""Optimizers built from the names and arguments that a configuration gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, Optional

import paddle
from paddle import nn
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LRScheduler

from ppdet.core.config.errors import hint
from ppdet.core.config.ranges import (
    Entries,
    FractionBelowOne,
    NonNegative,
    OneOf,
    Positive,
)
from ppdet.core.workspace import ParameterError, register
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
_NORMS = (nn.layer.norm._BatchNormBase, nn.layer.norm._InstanceNormBase, nn.GroupNorm, nn.LayerNorm)
_Group = Annotated[
    Mapping[str, Any],
    Entries({"params": Sequence[str], "learning_rate": NonNegative, "weight_decay": NonNegative}),
]
_EXTRA = {
    "type": Annotated[str, OneOf(*_TYPES)],
    "param_groups": Optional[Sequence[_Group]],
    "filter_bias_and_bn": bool,
}
_ARGUMENTS: dict[str, Any] = {
    "momentum": FractionBelowOne,
    "beta1": FractionBelowOne,
    "beta2": FractionBelowOne,
    "epsilon": Positive,
    "weight_decay": NonNegative,
    "rescale_grad": Positive,
    "use_nesterov": bool,
    "multi_precision": bool,
    "use_multi_tensor": bool,
    "lazy_mode": bool,
    "amsgrad": bool,
}
"""Arguments of Paddle's optimizers; each optimizer accepts some of them."""
_Optimizer = Annotated[Mapping[str, Any], Entries({**_EXTRA, **_ARGUMENTS})]
_Regularizer = Annotated[
    Mapping[str, Any], Entries({"type": Annotated[str, OneOf(*_REGULARIZERS)], "factor": NonNegative})
]
_DEFAULT_OPTIMIZER = MappingProxyType({"type": "Momentum", "momentum": 0.9})
_DEFAULT_REGULARIZER = MappingProxyType({"type": "L2", "factor": 0.0001})


@register
class OptimizerBuilder:
    """Builds the optimizer of a training.

    Args:
        clip_grad_by_norm: maximum global norm of the gradients; None disables clipping.
        clip_grad_by_value: maximum absolute value of gradient elements; excludes ``clip_grad_by_norm``.
        regularizer: ``{type: L2 or L1, factor}``, weight decay of all parameters, including normalisation layers and
            biases unless ``filter_bias_and_bn`` is set; None or false disables it. The default is L2 with 1e-4, unless
            the optimizer itself has a ``weight_decay``.
        optimizer: ``{type: Momentum, SGD, Adam or AdamW, …}`` with arguments of Paddle's class of that name, and
            ``param_groups``: a list of ``{params: [substrings], learning_rate: factor, weight_decay: value}`` for the
            parameters whose names contain one of the substrings (a parameter belongs to the first matching group). The
            factor is multiplied with the parameter's own factor, such as ``ResNet.lr_mult_list``.
            ``filter_bias_and_bn: true`` excludes biases and the parameters of normalisation layers from weight decay,
            except those in a group with its own ``weight_decay``.

    Raises:
        ParameterError: an unknown type or argument, two weight decays, two kinds of clipping.
    """

    def __init__(
        self,
        clip_grad_by_norm: Positive | None = None,
        clip_grad_by_value: Positive | None = None,
        regularizer: _Regularizer | Literal[False] | None = _DEFAULT_REGULARIZER,
        optimizer: _Optimizer = _DEFAULT_OPTIMIZER,
    ) -> None:
        if clip_grad_by_norm is not None and clip_grad_by_value is not None:
            raise ParameterError("set {0} or {1}, not both", "clip_grad_by_norm", "clip_grad_by_value")
        self.clip_grad_by_norm = clip_grad_by_norm
        self.clip_grad_by_value = clip_grad_by_value
        arguments = dict(optimizer)
        self.type = arguments.pop("type", "Momentum")
        self.param_groups = [dict(group) for group in arguments.pop("param_groups", None) or []]
        for group in self.param_groups:  # Paddle mistakes an integer weight decay for a regularizer
            group.update({key: float(value) for key, value in group.items() if key != "params"})
        self.filter_bias_and_bn = arguments.pop("filter_bias_and_bn", False)
        valid = [name for name in inspect.signature(_TYPES[self.type].__init__).parameters if name in _ARGUMENTS]
        for key in arguments:
            if key not in valid:
                template = "{0}: {kind} does not take it{hint}"
                raise ParameterError(template, f"optimizer.{key}", kind=self.type, hint=hint(key, [*valid, *_EXTRA]))
        self.arguments = arguments
        self.regularizer = self._regularizer(regularizer)

    def _regularizer(self, regularizer: Mapping[str, Any] | bool | None) -> Any:
        decoupled = self.type == "AdamW" or "weight_decay" in self.arguments
        if not regularizer or (decoupled and regularizer is _DEFAULT_REGULARIZER):
            return None
        if decoupled:
            raise ParameterError(
                "the weight decay of {kind} is {1}: set {0} to null",
                "regularizer",
                "optimizer.weight_decay",
                kind=self.type,
            )
        entries = {"type": "L2", **regularizer} if isinstance(regularizer, Mapping) else {}
        if "factor" not in entries:
            raise ParameterError("{0} needs a factor: {{type: L2, factor: 0.0001}}", "regularizer")
        return _REGULARIZERS[entries["type"]](float(entries["factor"]))

    def __call__(self, learning_rate: LRScheduler | float, model: nn.Layer) -> Optimizer:
        """Return the optimizer of the model's trainable parameters.

        Args:
            learning_rate: scheduler or constant.
            model: its parameters with ``stop_gradient=False`` are optimized.

        Raises:
            UserError: there is nothing to train, or a parameter group matches no parameter.
        """
        arguments = dict(self.arguments)
        if self.regularizer is not None:
            arguments["weight_decay"] = self.regularizer
        trainable = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
        if not trainable:
            raise UserError("the model has no trainable parameters: all of them are frozen")
        every = list(trainable.values())
        groups = self._groups(trainable)
        spared = self._spared(model, groups) if self.filter_bias_and_bn else set()
        if spared and self.type == "AdamW":
            arguments["apply_decay_param_fun"] = lambda name: name not in spared
        own = [(value, value.optimize_attr["learning_rate"], value.regularizer) for value in every]
        optimizer: Optimizer = _TYPES[self.type](
            learning_rate=learning_rate,
            parameters=[dict(group) for group in groups] if self.param_groups else every,  # Paddle modifies them
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
        """Restore each parameter's own learning rate factor and weight decay, which Paddle replaces by the group's."""
        group_of = {id(value): group for group in groups for value in group["params"]}
        for value, factor, regularizer in own:
            group = group_of[id(value)]
            value.optimize_attr["learning_rate"] = factor * group.get("learning_rate", 1.0)
            if regularizer is not None and "weight_decay" not in group:
                value.regularizer = regularizer

    @staticmethod
    def _spared(model: nn.Layer, groups: list[dict[str, Any]]) -> set[str]:
        """Return Paddle's names of the parameters that ``filter_bias_and_bn`` excludes from weight decay."""
        decided = {value.name for group in groups if "weight_decay" in group for value in group["params"]}
        norms = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, _NORMS)]
        spared = {value.name for layer in norms for value in layer.parameters(include_sublayers=False)}
        spared |= {value.name for name, value in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
        return spared - decided

    def _groups(self, trainable: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the trainable parameters as Paddle's parameter groups; the remaining ones form the last group."""
        rest = dict(trainable)
        groups: list[dict[str, Any]] = []
        for group in self.param_groups:
            names = [name for name in rest if any(text in name for text in group["params"])]
            if not names:
                raise UserError(
                    f"OptimizerBuilder.optimizer.param_groups: no parameter has a name that contains {group['params']}"
                )
            groups.append({**group, "params": [rest.pop(name) for name in names]})
        return [*groups, {"params": list(rest.values())}] if rest else groups
