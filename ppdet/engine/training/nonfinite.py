"""Steps whose loss or gradient is not finite: undone on the device, and recorded in a file."""

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
    """Return the image files of a step."""
    return [str(path) for batch in batches for path in batch.get("im_path", ())]


_SIZE_LIMIT = 1 << 24
"""Bytes of a file; a step of ten thousand images needs a tenth of them."""


@dataclass
class BadStep:
    """What is needed to repeat a step.

    Attributes:
        epoch: counted from 0.
        iteration: counted from 1 within the epoch.
        step: counted from 1 within the training.
        seed: of the training.
        images: files of this process's batches.
        losses: values by name, as text (JSON has no ``nan``).
        rank: of the process.
        processes: number of processes.
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
        """Write ``nonfinite_<step>.json`` (with the rank in its name on other ranks than 0) and return its path."""
        file = folder / f"nonfinite_{self.step}{f'_rank{self.rank}' if self.rank else ''}.json"
        with atomic_writer(file, "w") as stream:
            json.dump(asdict(self), stream, indent=1)
        return file

    @classmethod
    def read(cls, file: str | Path) -> BadStep:
        """Read a file that `write` has written.

        Raises:
            UserError: the file is missing or has other contents.
        """
        try:
            with open(file, "rb") as stream:
                content = stream.read(_SIZE_LIMIT + 1)
            if len(content) > _SIZE_LIMIT:
                raise ValueError(f"it is larger than {_SIZE_LIMIT} bytes")
            step = cls(**json.loads(content.decode("utf-8")))
            step._check()
            return step
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"cannot read {file} ({one_line(error, 200)}); --replay takes a nonfinite_*.json of a run folder"
            ) from error

    def _check(self) -> None:
        """Check the type and the range of every entry.

        Raises:
            ValueError: an entry is wrong; the message names it.
        """
        minimums = {"epoch": 0, "iteration": 1, "step": 1, "seed": 0, "rank": 0, "processes": 1}
        for name, minimum in minimums.items():
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value < 1 << 53:
                raise ValueError(f"{name} is {shown(value)}, expected a whole number of {minimum} or more")
        if self.rank >= self.processes:
            raise ValueError(f"rank {self.rank} of {self.processes} processes")
        if not isinstance(self.images, list) or not all(isinstance(path, str) for path in self.images):
            raise ValueError("images is not a list of files")
        if not isinstance(self.losses, dict) or not all(isinstance(text, str) for text in self.losses.values()):
            raise ValueError("losses is not a mapping from names to texts")


class StepGuard:
    """Undoes a step whose loss or gradient is not finite, without reading from the device.

    Weights, buffers (statistics of batch normalisation) and tensors of the optimizer are copied before a step; after
    it, ``where`` selects either the copies or the results. This takes the memory of one more copy of them. Setting the
    gradients to zero would not be enough, because momentum and weight decay change weights without gradients.

    With loss scaling, gradients overflow now and then, and the scaler skips such a step by itself. Then only the losses
    are checked here.

    Args:
        parts: what the training changes.
    """

    def __init__(self, parts: TrainParts) -> None:
        self._parts = parts
        self._fresh = True

    def buffers(self) -> dict[str, Tensor]:
        """Return copies of the model's buffers, which the forward pass changes."""
        return {name: value.detach().clone() for name, value in self._buffers().items()}

    @paddle.no_grad()
    def verdict(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return whether losses and gradients are finite on all processes: a boolean of shape [] on the device."""
        good = [paddle.isfinite(loss.astype("float32")).all() for loss in losses.values()]
        if self._parts.scaler is None:
            gradients = [parameter.grad for parameter in self._parts.model.parameters()]
            good += [paddle.isfinite(gradient).all() for gradient in gradients if gradient is not None]
        flag = paddle.stack([finite.astype("float32") for finite in good]).min()
        if world_size() > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return flag > 0.5

    def update(self, good: Tensor, buffers: Mapping[str, Tensor], optimize: Callable[[], None]) -> None:
        """Update the weights, or leave everything as it was before the step.

        The first step waits for the device: the optimizer creates its tensors in it, so there is nothing to copy yet.

        Args:
            good: returned by `verdict`.
            buffers: returned by `buffers`.
            optimize: performs the optimizer's step.
        """
        if not self._fresh or bool(good):
            before = {name: value.detach().clone() for name, value in self._tensors().items()}
            optimize()
            if not self._fresh:
                self._choose(good, self._tensors(), before)
            self._fresh = False
        self._choose(good, self._buffers(), buffers)

    def _buffers(self) -> dict[str, Tensor]:
        """Return what a forward pass may change: all that is saved but not trained, such as batch statistics."""
        return {name: value for name, value in self._parts.model.state_dict().items() if value.stop_gradient}

    def _tensors(self) -> dict[str, Tensor]:
        """Return what a step of the optimizer changes: trained parameters and the optimizer's own tensors."""
        tensors = {f"model.{n}": value for n, value in self._parts.model.named_parameters() if not value.stop_gradient}
        for name, value in self._parts.optimizer.state_dict().items():
            if isinstance(value, Tensor):
                tensors[name] = value
            elif name == "master_weights":
                tensors.update({f"master.{owner}": tensor for owner, tensor in value.items()})
        return tensors

    @staticmethod
    @paddle.no_grad()
    def _choose(good: Tensor, now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        for name, old in before.items():
            value = now[name]
            where = good.expand(value.shape) if value.shape else good
            paddle.assign(paddle.where(where, value.detach(), old), output=value)
