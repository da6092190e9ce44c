"""Learning rate schedules, optimizers, and the moving average of the weights."""

from __future__ import annotations

from ppdet.optimizer.ema import ModelEMA
from ppdet.optimizer.learning_rate import FactorSchedule, LearningRate
from ppdet.optimizer.optimizer import OptimizerBuilder
from ppdet.optimizer.schedules import CosineDecay, ExpWarmup, LinearWarmup, PiecewiseDecay

__all__ = [
    "CosineDecay",
    "ExpWarmup",
    "FactorSchedule",
    "LearningRate",
    "LinearWarmup",
    "ModelEMA",
    "OptimizerBuilder",
    "PiecewiseDecay",
]
