"""The models of the configurations in full size, for tests that only look at the names and shapes of tensors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import paddle
from paddle.nn import Layer, initializer

from ppdet.core.workspace import create, load_config, merge_config

__all__ = ["Outline", "full_model", "outline", "without_random_values"]

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def without_random_values() -> Iterator[None]:
    """Initialize every parameter with zeros: drawing the random values takes nearly all of the time of building."""
    zeros = initializer.Constant(0.0)

    def fill(self: Any, var: Any, block: Any = None) -> Any:
        return zeros(var, block)

    kinds = (initializer.Normal, initializer.Uniform, initializer.XavierUniform, initializer.KaimingNormal)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            owner = next(base for base in kind.__mro__ if "forward" in vars(base))
            stack.enter_context(mock.patch.object(owner, "forward", fill))
        yield


def full_model(name: str, **changes: Any) -> Layer:
    """Return the model of ``configs/<name>.yml`` on the CPU, all of its parameters zero."""
    paddle.set_device("cpu")
    config = load_config(str(ROOT / "configs" / f"{name}.yml"))
    merge_config({"use_gpu": False, "pretrain_weights": None, **changes}, config)
    with without_random_values():
        return create(config, config.architecture)


class Outline:
    """The names, shapes and element types of a model's tensors, without their values."""

    def __init__(self, model: Layer) -> None:
        self._tensors = {
            name: SimpleNamespace(shape=list(tensor.shape), dtype=tensor.dtype)
            for name, tensor in model.state_dict().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return objects with ``shape`` and ``dtype`` by name."""
        return dict(self._tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}


@functools.cache
def outline(name: str) -> Outline:
    """Return what ``convert_state`` has to know of the model of ``configs/<name>.yml``; built once in a session."""
    return Outline(full_model(name))
