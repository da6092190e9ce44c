"""The losses of the steps since the last log line, and what happens when one of them is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppdet.engine.distributed.env import rank, world_size
from ppdet.engine.training.nonfinite import BadStep, image_paths
from ppdet.engine.training.run_state import RunState
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["LossWindow", "Losses", "STEP_DONE"]

logger = setup_logger(__name__)

Losses = dict[str, Tensor]

STEP_DONE = "step_done"
"""Entry next to the losses: whether the step changed the weights."""


class LossWindow:
    """The losses of the steps since the last log line, kept on the device and read together.

    Losses that have been read are kept in ``state.window``, so that a resumed training logs the same means.

    Args:
        state: of the training.
        folder: where steps that are not finite are recorded; None records nothing.
        allowed: number of such steps that are skipped before the training stops; skipping needs a `StepGuard`.
    """

    def __init__(self, state: RunState | None = None, folder: Path | None = None, allowed: int = 0) -> None:
        self._state = state or RunState()
        self._folder = folder
        self._allowed = allowed
        self._steps: list[tuple[Losses, BadStep]] = []

    def add(self, losses: Losses, state: RunState, batches: Sequence[Mapping[str, Any]]) -> None:
        """Append the losses of a step, with its position and its images."""
        images = image_paths(batches)
        place = BadStep(state.epoch, state.iteration, state.step, state.seed, images, {}, rank(), world_size())
        self._steps.append((losses, place))

    def __len__(self) -> int:
        return len(self._steps)

    def flush(self) -> None:
        """Read the losses that are still on the device: the only device-to-host read of a training.

        Raises:
            UserError: a loss is not finite; the message gives the step and the losses, the log its images.
        """
        if not self._steps:
            return
        names = list(self._steps[0][0])
        rows = [
            paddle.concat([losses[name].astype("float32").reshape([1]) for name in names]) for losses, _ in self._steps
        ]
        values = paddle.stack(rows).numpy().astype("float64")
        steps, self._steps = self._steps, []
        for row, (_, place) in zip(values.tolist(), steps):
            losses = dict(zip(names, row))
            done = losses.pop(STEP_DONE, 1.0)
            if done and all(math.isfinite(value) for value in losses.values()):
                for name, value in losses.items():
                    self._state.window.setdefault(name, []).append(value)
            else:
                self._skip(place, losses)

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the window so far; empty if all steps were skipped.

        Raises:
            UserError: see `flush`.
        """
        self.flush()
        return {name: float(np.mean(values)) for name, values in self._state.window.items()}

    def read(self) -> dict[str, float]:
        """Return `means` and empty the window.

        Raises:
            UserError: see `flush`.
        """
        means = self.means()
        self._state.window = {}
        return means

    def _skip(self, place: BadStep, losses: dict[str, float]) -> None:
        """Count and record a step that is not finite.

        Raises:
            UserError: there have been too many of them.
        """
        self._state.skipped += 1
        place.losses = {name: str(value) for name, value in losses.items()}
        broken = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
        what = ", ".join(broken) or "a gradient or the loss of another process is not finite"
        if place.images:
            logger.error("images of the step whose loss is not finite: %s", ", ".join(place.images))
        file = place.write(self._folder) if self._folder is not None else None
        where = f"{what} at epoch {place.epoch + 1}, iteration {place.iteration}"
        if self._state.skipped <= self._allowed:
            logger.warning(
                "step skipped: %s (%d of %d that max_nonfinite_steps allows)", where, self._state.skipped, self._allowed
            )
            return
        raise UserError(
            f"training stopped: {where}; lower LearningRate.base_lr or lengthen the warm-up, and continue from an "
            "earlier checkpoint with -r" + (f"; to repeat the step, add --replay {file}" if file else "")
        )
