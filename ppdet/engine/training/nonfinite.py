"""Steps whose loss or gradient is not finite: taken back on the device, written down, and looked into afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from deploy.common.atomic import atomic_writer
from deploy.common.printable import one_line, shown
from ppdet.engine.distributed.env import world_size
from ppdet.engine.training.checkpoint import TrainParts
from ppdet.utils.errors import UserError

__all__ = ["BadStep", "StepGuard", "image_paths"]


def image_paths(batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """Image files of a step."""
    return [str(path) for batch in batches for path in batch.get("im_path", ())]


_LARGEST = 1 << 24
"""Bytes of the file; a step of ten thousand images has a tenth of them."""


@dataclass
class BadStep:
    """What is needed to repeat a step.

    Attributes:
        epoch, iteration: where it was; the first epoch has the index 0, the first iteration of an epoch is 1.
        step: iterations since the training began, this one included.
        seed: of the training.
        images: files of this process's batches.
        losses: values by name, as texts (``nan`` is no JSON).
        rank, processes: whose step it was, of how many.
    """

    epoch: int
    iteration: int
    step: int
    seed: int
    images: list[str]
    losses: dict[str, str]
    rank: int = 0
    processes: int = 1

    def write(self, folder: Path) -> Path:
        """Write ``nonfinite_<step>.json`` (other processes than the first add their rank) and return its path."""
        file = folder / f"nonfinite_{self.step}{f'_rank{self.rank}' if self.rank else ''}.json"
        with atomic_writer(file, "w") as stream:
            json.dump(asdict(self), stream, indent=1)
        return file

    @classmethod
    def read(cls, file: str | Path) -> BadStep:
        """Read what `write` wrote.

        Raises:
            UserError: the file is missing or something else.
        """
        try:
            with open(file, "rb") as stream:
                content = stream.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ValueError(f"it is larger than {_LARGEST} bytes")
            step = cls(**json.loads(content.decode("utf-8")))
            step._check()
            return step
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"cannot read {file} ({one_line(error, 200)}); --replay takes a nonfinite_*.json of a run folder"
            ) from error

    def _check(self) -> None:
        """Check the kind and the range of every entry.

        Raises:
            ValueError: one is wrong; named.
        """
        least = {"epoch": 0, "iteration": 1, "step": 1, "seed": 0, "rank": 0, "processes": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int or not bound <= value < 1 << 53:
                raise ValueError(f"{name} is {shown(value)}, expected a whole number from {bound}")
        if self.rank >= self.processes:
            raise ValueError(f"rank {self.rank} of {self.processes} processes")
        if not isinstance(self.images, list) or not all(isinstance(path, str) for path in self.images):
            raise ValueError("images is no list of files")
        if not isinstance(self.losses, dict) or not all(isinstance(text, str) for text in self.losses.values()):
            raise ValueError("losses are no texts by name")


class StepGuard:
    """Takes a step back whose loss or gradient is not finite, without asking the device how it went.

    Weights, buffers (statistics of batch normalisation) and the optimizer's tensors are copied before a step and
    chosen, element by element, between copy and result after it: one more copy of all of them in the device's memory.
    Zero gradients would not do, because momentum and weight decay move weights without any.

    With loss scaling gradients overflow now and then, and the scaler leaves such a step out itself; then the losses
    alone are judged here.

    Args:
        parts: what training changes.
    """

    def __init__(self, parts: TrainParts) -> None:
        self._parts = parts
        self._fresh = True

    def buffers(self) -> dict[str, Tensor]:
        """Copy the model's buffers, which the forward changes."""
        return {name: value.detach().clone() for name, value in self._buffers().items()}

    @paddle.no_grad()
    def verdict(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return, as a boolean on the device, whether losses and gradients are finite on every process."""
        good = [paddle.isfinite(loss.astype("float32")).all() for loss in losses.values()]
        if self._parts.scaler is None:
            gradients = [parameter.grad for parameter in self._parts.model.parameters()]
            good += [paddle.isfinite(gradient).all() for gradient in gradients if gradient is not None]
        flag = paddle.stack([one.astype("float32") for one in good]).min()
        if world_size() > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return flag > 0.5

    def update(self, good: Tensor, buffers: Mapping[str, Tensor], optimize: Callable[[], None]) -> None:
        """Update the weights, or leave everything as it was before the step.

        The first step waits for the device: the optimizer makes its tensors in it, so there is nothing to copy yet.

        Args:
            good: of `verdict`.
            buffers: of `buffers`.
            optimize: does the optimizer's step.
        """
        if not self._fresh or bool(good):
            before = {name: value.detach().clone() for name, value in self._tensors().items()}
            optimize()
            if not self._fresh:
                self._choose(good, self._tensors(), before)
            self._fresh = False
        self._choose(good, self._buffers(), buffers)

    def _buffers(self) -> dict[str, Tensor]:
        """What a forward may change: all that is saved and not trained (Paddle's batch statistics are parameters)."""
        return {name: value for name, value in self._parts.model.state_dict().items() if value.stop_gradient}

    def _tensors(self) -> dict[str, Tensor]:
        """What an optimizer's step changes: trained parameters and the optimizer's own tensors."""
        found = {f"model.{n}": value for n, value in self._parts.model.named_parameters() if not value.stop_gradient}
        for name, value in self._parts.optimizer.state_dict().items():
            if isinstance(value, Tensor):
                found[name] = value
            elif name == "master_weights":
                found.update({f"master.{owner}": tensor for owner, tensor in value.items()})
        return found

    @staticmethod
    @paddle.no_grad()
    def _choose(good: Tensor, now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        for name, old in before.items():
            value = now[name]
            where = good.expand(value.shape) if value.shape else good
            paddle.assign(paddle.where(where, value.detach(), old), output=value)
