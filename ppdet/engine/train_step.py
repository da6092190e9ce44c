"""One optimisation step, in one place: forward, backward, update. Nothing here reads from the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import Layer

from ppdet.engine.checkpoint import RunState, TrainParts
from ppdet.engine.precision import Precision
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["LossWindow", "TrainStep"]

logger = setup_logger(__name__)

Losses = dict[str, Tensor]


class TrainStep:
    """Callable that trains on one step's batches.

    Gradients are unscaled before they are clipped. Where the loss scaler finds one that is not finite, the weights and
    the optimizer's tensors stay as they are; the schedule goes on all the same, and the average takes the weights in
    once more, so that both depend on the number of steps alone.

    Args:
        network: the model, or its DataParallel wrapper.
        parts: bare model, optimizer, average, loss scaler.
        precision: how the forward computes.
    """

    def __init__(self, network: Layer, parts: TrainParts, precision: Precision) -> None:
        self.network = network
        self.parts = parts
        self.precision = precision

    def __call__(self, batches: Sequence[Mapping[str, Any]]) -> Losses:
        """Accumulate the gradients of ``batches`` (usually one), update the weights, advance the schedule.

        Returns:
            Detached losses by name, means over ``batches``; they stay on the device.
        """
        total: Losses = {}
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            for name, value in self._backward(batch, len(batches), synchronise=last).items():
                total[name] = total[name] + value if name in total else value
        self._update()
        return {name: value / len(batches) for name, value in total.items()} if len(batches) > 1 else total

    def _backward(self, batch: Mapping[str, Any], shares: int, synchronise: bool) -> Losses:
        """Add one batch's gradients, divided by ``shares``; ranks exchange them only with ``synchronise``."""
        no_sync = getattr(self.network, "no_sync", None)
        with nullcontext() if synchronise or no_sync is None else no_sync():
            with self.precision.context():
                losses = self.network(batch)
            loss = losses["loss"].astype("float32")
            if shares > 1:
                loss = loss / shares
            if self.parts.scaler is not None:
                loss = self.parts.scaler.scale(loss)
            loss.backward()
        return {name: value.detach() for name, value in losses.items()}

    def _update(self) -> None:
        optimizer = self.parts.optimizer
        if self.parts.scaler is not None:
            self.parts.scaler.step(optimizer)
            self.parts.scaler.update()
        else:
            optimizer.step()
        optimizer.clear_grad()
        rate = optimizer._learning_rate
        if isinstance(rate, paddle.optimizer.lr.LRScheduler):
            rate.step()
        if self.parts.ema is not None:
            self.parts.ema.update()


class LossWindow:
    """The losses of the steps since the last log line, kept on the device and read all at once."""

    def __init__(self) -> None:
        self._steps: list[tuple[Losses, int, int, list[str]]] = []

    def add(self, losses: Losses, state: RunState, batches: Sequence[Mapping[str, Any]]) -> None:
        """Append one step's losses, with where it was and which images it saw."""
        paths = [str(path) for batch in batches for path in batch.get("im_path", ())]
        self._steps.append((losses, state.epoch, state.iteration, paths))

    def __len__(self) -> int:
        return len(self._steps)

    def read(self) -> dict[str, float]:
        """Return each loss's mean over the window and empty the window; the only host read of a training.

        Raises:
            UserError: a loss is not finite; the message names step and losses, the log its images.
        """
        if not self._steps:
            return {}
        names = list(self._steps[0][0])
        rows = [
            paddle.concat([losses[name].astype("float32").reshape([1]) for name in names]) for losses, *_ in self._steps
        ]
        values = paddle.stack(rows).numpy().astype("float64")
        for row, (_, epoch, iteration, paths) in zip(values, self._steps):
            broken = [f"{name} = {value}" for name, value in zip(names, row) if not math.isfinite(value)]
            if broken:
                if paths:
                    logger.error("images of the step whose loss is not finite: %s", ", ".join(paths))
                raise UserError(
                    f"training stopped: {', '.join(broken)} at epoch {epoch}, iteration {iteration}; lower "
                    "LearningRate.base_lr or lengthen the warm-up, and continue from an earlier checkpoint with -r"
                )
        self._steps = []
        return dict(zip(names, values.mean(axis=0).tolist()))
