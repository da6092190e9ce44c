"""One optimisation step: forward, backward, update. Nothing here reads from the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from paddle.nn import Layer

from ppdet.engine.precision import Precision
from ppdet.engine.training.checkpoint import TrainParts
from ppdet.engine.training.loss_window import STEP_DONE, Losses
from ppdet.engine.training.nonfinite import StepGuard
from ppdet.engine.training.optimizer_state import scheduler_of

__all__ = ["TrainStep"]


class TrainStep:
    """Callable that trains on one step's batches.

    Gradients are unscaled before they are clipped. If the loss scaler finds one that is not finite, the weights and
    the optimizer's tensors stay as they are. The schedule advances nevertheless, and the average includes the weights
    once more, so that both depend only on the number of steps.

    Args:
        network: the model, or its DataParallel wrapper.
        parts: bare model, optimizer, average, loss scaler.
        precision: how the forward pass computes.
        guard: undoes steps that are not finite; without one, the loss window stops the training after such a step.
    """

    def __init__(self, network: Layer, parts: TrainParts, precision: Precision, guard: StepGuard | None = None) -> None:
        self.network = network
        self.parts = parts
        self.precision = precision
        self.guard = guard

    def __call__(self, batches: Sequence[Mapping[str, Any]]) -> Losses:
        """Accumulate the gradients of ``batches`` (usually one), update the weights, advance the schedule.

        Returns:
            Detached losses of shape [] by name, means over ``batches``; with a guard also `STEP_DONE`, whether the step
            changed the weights. They stay on the device.
        """
        buffers = {} if self.guard is None else self.guard.buffers()
        total: Losses = {}
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            for name, value in self.backward(batch, len(batches), synchronise=last).items():
                total[name] = total[name] + value if name in total else value
        if len(batches) > 1:
            total = {name: value / len(batches) for name, value in total.items()}
        if self.guard is None:
            self._optimize()
        else:
            good = self.guard.verdict(total)
            self.guard.update(good, buffers, self._optimize)
            total = {**total, STEP_DONE: good}
        self._advance()
        return total

    def backward(self, batch: Mapping[str, Any], shares: int = 1, synchronise: bool = True) -> Losses:
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

    def _optimize(self) -> None:
        optimizer = self.parts.optimizer
        if self.parts.scaler is not None:
            self.parts.scaler.step(optimizer)
            self.parts.scaler.update()
        else:
            optimizer.step()

    def _advance(self) -> None:
        """Advance schedule and average, also after a step that was undone."""
        self.parts.optimizer.clear_grad()
        schedule = scheduler_of(self.parts.optimizer)
        if schedule is not None:
            schedule.step()
        if self.parts.ema is not None:
            self.parts.ema.update()
