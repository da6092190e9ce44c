"""Decays and warm-ups as factors of the base learning rate.

Legend: t is the iteration, counted from 0 over the whole training; n is the number of iterations in an epoch; w is
the number of warm-up iterations (0 without warm-up).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated

from ppdet.core.config.ranges import Ascending, Fraction, Interval, Length, NonNegative, NonNegativeInt, Positive
from ppdet.core.workspace import ParameterError, serializable

__all__ = ["CosineDecay", "ExpWarmup", "Factor", "LinearWarmup", "PiecewiseDecay", "Warmup"]

Factor = Callable[[int], float]
"""Factor of the base learning rate at iteration t."""


@serializable
class PiecewiseDecay:
    """Step decay at given epochs.

    Args:
        gamma: a number, by which the learning rate is multiplied at each milestone, or a list with the factor of the
            BASE learning rate from each milestone on.
        milestones: epochs at whose beginning the learning rate changes, in ascending order.
        values: alternative to gamma: the learning rates themselves, one more than milestones.
        use_warmup: accepted for configurations of PaddleDetection; a warm-up is used whenever one is listed.

    Raises:
        ParameterError: milestones are not ascending, or gamma or values have the wrong length.
    """

    def __init__(
        self,
        gamma: NonNegative | Sequence[NonNegative] = 0.1,
        milestones: Annotated[Sequence[NonNegative], Length(0, 1000), Ascending()] = (8, 11),
        values: Sequence[NonNegative] | None = None,
        use_warmup: bool = True,
    ) -> None:
        count = len(milestones)
        if isinstance(gamma, Sequence):
            factors = [float(value) for value in gamma]
        else:
            factors = [float(gamma) ** (step + 1) for step in range(count)]
        if len(factors) != count:
            raise ParameterError(
                "{0} has {own} values, but {1} has {count}: give a number, or one value for each milestone",
                "gamma",
                "milestones",
                own=len(factors),
                count=count,
            )
        if values is not None and len(values) != count + 1:
            raise ParameterError(
                "{0} has {own} entries, but {1} has {count}: {0} needs one more than {1}",
                "values",
                "milestones",
                own=len(values),
                count=count,
            )
        self.milestones = [float(epoch) for epoch in milestones]
        self.factors = [1.0, *factors]
        self.values = None if values is None else [float(value) for value in values]
        self.use_warmup = use_warmup

    def __call__(self, base_lr: float, step_per_epoch: int, warmup_steps: int) -> Factor:
        """Return the factor as a function of the iteration; the warm-up does not shift the milestones."""
        boundaries = [round(epoch * step_per_epoch) for epoch in self.milestones]
        factors = self.factors if self.values is None else [value / base_lr for value in self.values]
        return lambda t: factors[sum(t >= boundary for boundary in boundaries)]


@serializable
class CosineDecay:
    """Cosine decay from the base learning rate to ``min_lr_ratio`` times it, from the end of the warm-up on.

    Args:
        max_epochs: number of epochs of the schedule, including ``last_plateau_epochs``.
        use_warmup: start the cosine at the end of the warm-up instead of at iteration 0.
        min_lr_ratio: the minimum relative to the base learning rate.
        last_plateau_epochs: number of epochs at the end with the minimum learning rate.

    Raises:
        ParameterError: ``max_epochs`` does not exceed ``last_plateau_epochs``.
    """

    def __init__(
        self,
        max_epochs: Positive = 12,
        use_warmup: bool = True,
        min_lr_ratio: Fraction = 0.0,
        last_plateau_epochs: NonNegative = 0,
    ) -> None:
        if last_plateau_epochs >= max_epochs:
            raise ParameterError(
                "{0} is {epochs}, but it must exceed {1}, which is {plateau}",
                "max_epochs",
                "last_plateau_epochs",
                epochs=max_epochs,
                plateau=last_plateau_epochs,
            )
        self.max_epochs = float(max_epochs)
        self.use_warmup = use_warmup
        self.min_lr_ratio = float(min_lr_ratio)
        self.last_plateau_epochs = float(last_plateau_epochs)

    def __call__(self, base_lr: float, step_per_epoch: int, warmup_steps: int) -> Factor:
        """Return the factor as a function of the iteration."""
        first = warmup_steps if self.use_warmup else 0
        length = max(round((self.max_epochs - self.last_plateau_epochs) * step_per_epoch) - first, 1)

        def factor(t: int) -> float:
            progress = min(max(t - first, 0) / length, 1.0)
            return self.min_lr_ratio + (1.0 - self.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

        return factor


class Warmup(ABC):
    """Base class of warm-ups, whose length is given in iterations or in epochs.

    Args:
        steps: number of iterations.
        start_factor: factor of the first iteration.
        epochs: length in epochs, which overrides ``steps``; None uses ``steps``.
    """

    def __init__(self, steps: int, start_factor: float, epochs: float | None) -> None:
        self.steps = steps
        self.start_factor = float(start_factor)
        self.epochs = epochs

    def length(self, step_per_epoch: int) -> int:
        """Return w, the number of warm-up iterations."""
        return self.steps if self.epochs is None else round(self.epochs * step_per_epoch)

    @abstractmethod
    def __call__(self, step_per_epoch: int) -> Factor:
        """Return the factor as a function of the iteration."""


@serializable
class LinearWarmup(Warmup):
    """Linear warm-up from ``start_factor`` at t = 0 to 1 at t = w - 1, as in the code of the authors.

    Args:
        steps: number of warm-up iterations, w.
        start_factor: factor of the first iteration.
        epochs: length in epochs, which overrides ``steps``.
    """

    def __init__(
        self, steps: NonNegativeInt = 500, start_factor: Fraction = 0.001, epochs: NonNegative | None = None
    ) -> None:
        super().__init__(steps, start_factor, epochs)

    def __call__(self, step_per_epoch: int) -> Factor:
        """Return the factor as a function of the iteration."""
        last = self.length(step_per_epoch) - 1
        start = self.start_factor
        return lambda t: 1.0 if t >= last else start + (1.0 - start) * t / last


@serializable
class ExpWarmup(Warmup):
    """Warm-up by the power law ``start_factor`` + (1 - ``start_factor``) * (t / w) ** power.

    Args:
        steps: number of warm-up iterations, w.
        start_factor: factor of the first iteration.
        epochs: length in epochs, which overrides ``steps``.
        power: exponent; values above 1 rise slowly at first.
    """

    def __init__(
        self,
        steps: NonNegativeInt = 1000,
        start_factor: Fraction = 0.0,
        epochs: NonNegative | None = None,
        power: Annotated[float, Interval(0, 1000, open_low=True)] = 2.0,
    ) -> None:
        super().__init__(steps, start_factor, epochs)
        self.power = float(power)

    def __call__(self, step_per_epoch: int) -> Factor:
        """Return the factor as a function of the iteration."""
        length = self.length(step_per_epoch)
        start = self.start_factor
        return lambda t: 1.0 if t >= length else start + (1.0 - start) * (t / length) ** self.power
