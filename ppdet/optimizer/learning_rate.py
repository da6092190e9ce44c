"""The learning rate of every iteration: base learning rate x decay x warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from paddle.optimizer.lr import LRScheduler

from ppdet.core.config.ranges import Length, Positive
from ppdet.core.workspace import ParameterError, register
from ppdet.optimizer.schedules import CosineDecay, Factor, LinearWarmup, PiecewiseDecay, Warmup
from ppdet.utils.errors import UserError

__all__ = ["FactorSchedule", "LearningRate"]


class FactorSchedule(LRScheduler):
    """A scheduler whose learning rate only depends on the iteration, so that a resumed training continues exactly.

    Its state is the iteration. Call ``step`` once after each optimizer step.

    Args:
        base_lr: learning rate before any factor.
        factors: functions of the iteration that the base learning rate is multiplied by.
    """

    def __init__(self, base_lr: float, factors: Sequence[Factor]) -> None:
        self.factors = list(factors)
        super().__init__(base_lr)

    def get_lr(self) -> float:
        """Return the learning rate of the current iteration, which Paddle calls ``last_epoch``."""
        rate = self.base_lr
        for factor in self.factors:
            rate *= factor(self.last_epoch)
        return rate

    def set_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the iteration of ``state_dict`` with the schedule as it is configured now.

        Raises:
            UserError: the state does not belong to a scheduler.
        """
        iteration = state_dict.get("last_epoch")
        if not isinstance(iteration, (int, np.integer)):
            raise UserError(
                "the learning rate state of the checkpoint does not contain the iteration, so that it cannot be resumed"
            )
        self.step(int(iteration))

    set_dict = set_state_dict


_DEFAULT = (PiecewiseDecay(), LinearWarmup())


@register
class LearningRate:
    """Builds the scheduler of a training.

    Args:
        base_lr: learning rate before any factor, for the total batch size of the configuration.
        schedulers: at most one decay and one warm-up in any order; an empty list gives a constant learning rate.

    Raises:
        ParameterError: a base learning rate that is not positive, another kind of scheduler, or two of one kind.
    """

    __inject__ = ["schedulers"]

    def __init__(
        self,
        base_lr: Positive = 0.02,
        schedulers: Annotated[Sequence[PiecewiseDecay | CosineDecay | Warmup], Length(0, 2)] = _DEFAULT,
    ) -> None:
        warmups = [item for item in schedulers if isinstance(item, Warmup)]
        decays = [item for item in schedulers if isinstance(item, (PiecewiseDecay, CosineDecay))]
        if len(warmups) + len(decays) != len(schedulers):
            raise ParameterError("{0} takes PiecewiseDecay or CosineDecay, LinearWarmup or ExpWarmup", "schedulers")
        if len(warmups) > 1 or len(decays) > 1:
            raise ParameterError("{0} takes at most one decay and one warm-up", "schedulers")
        self.base_lr = float(base_lr)
        self.warmup = warmups[0] if warmups else None
        self.decay = decays[0] if decays else None

    def __call__(self, step_per_epoch: int) -> FactorSchedule:
        """Return the scheduler, which is stepped per iteration.

        Args:
            step_per_epoch: number of iterations in an epoch.
        """
        factors: list[Factor] = []
        warmup_steps = 0
        if self.warmup is not None:
            warmup_steps = self.warmup.length(step_per_epoch)
            factors.append(self.warmup(step_per_epoch))
        if self.decay is not None:
            factors.append(self.decay(self.base_lr, step_per_epoch, warmup_steps))
        return FactorSchedule(self.base_lr, factors)
