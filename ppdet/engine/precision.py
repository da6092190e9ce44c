"""Automatic mixed precision: what a step computes in, and what the device can do of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import paddle
from paddle.amp import GradScaler
from paddle.base import core
from paddle.optimizer import Optimizer

from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["LossScaler", "Precision", "check_optimizer", "choose_precision"]

logger = setup_logger(__name__)

SMALLEST_SCALE = 2.0**-16
"""Below this factor of the loss it is not the scaling that makes gradients overflow."""


class LossScaler(GradScaler):
    """Paddle's loss scaling with a state machine that survives an overflow.

    A step with a gradient that is not finite is skipped and halves the factor; 2,000 steps in a row without one double
    it. To know which, one flag a step is read from the device, as PyTorch's scaler does. (Paddle's own update prints
    ``float(scale)`` at an overflow, which NumPy refuses from 2.4 on: the training would end there.)

    Args:
        init_scale: the first factor.

    Attributes:
        skipped: the last step changed nothing.
    """

    _incr_count: int
    _decr_count: int
    _scale: paddle.Tensor

    def __init__(self, init_scale: float) -> None:
        super().__init__(
            init_loss_scaling=init_scale,
            incr_ratio=2.0,
            decr_ratio=0.5,
            incr_every_n_steps=2000,
            decr_every_n_nan_or_inf=1,
        )
        self.skipped = False

    def step(self, optimizer: Optimizer) -> None:
        """Unscale the gradients if that has not been done, and update the weights unless a gradient is not finite."""
        super().step(optimizer)
        if self.is_enable():  # the optimizer has read the flag and left the answer
            self.skipped = bool(optimizer._get_auxiliary_var("found_inf"))

    def _update(self) -> None:
        """Move the factor after a step; Paddle calls it from ``update``.

        Raises:
            UserError: gradients are not finite at any factor.
        """
        if not self.skipped:
            self._decr_count, self._incr_count = 0, self._incr_count + 1
            if self._incr_count == self._incr_every_n_steps:
                self._scale, self._incr_count = self._scale * self._incr_ratio, 0
            return
        self._incr_count, self._decr_count = 0, self._decr_count + 1
        if self._decr_count < self._decr_every_n_nan_or_inf:
            return
        self._scale, self._decr_count = self._scale * self._decr_ratio, 0
        value = self._scale.numpy().item()  # the flag has made the host wait already
        logger.info("a gradient is not finite: step skipped, loss scaling lowered to %g", value)
        if value < SMALLEST_SCALE:
            raise UserError(
                f"training stopped: gradients are not finite even with the loss scaled by {value:g}; lower "
                "LearningRate.base_lr, set amp_dtype to bfloat16, or train without --amp"
            )


@dataclass(frozen=True)
class Precision:
    """How a step computes.

    Attributes:
        level: ``O1`` (operators on a list compute in half precision), ``O2`` (weights too, the optimizer keeps float32
            copies), or None: float32.
        dtype: ``float16`` or ``bfloat16``.
        init_scale: first factor of the loss scaling, which float16 needs.
        white: operators that compute in half precision in addition to Paddle's list.
        black: operators that compute in float32 in addition to Paddle's list.
    """

    level: str | None = None
    dtype: str = "float16"
    init_scale: float = 65536.0
    white: tuple[str, ...] = ()
    black: tuple[str, ...] = ()

    def context(self) -> AbstractContextManager[Any]:
        """Return the context in which the forward runs."""
        if self.level is None:
            return nullcontext()
        return paddle.amp.auto_cast(
            level=self.level,
            dtype=self.dtype,
            custom_white_list=set(self.white) or None,
            custom_black_list=set(self.black) or None,
        )

    def scaler(self) -> GradScaler | None:
        """Return a loss scaler, or None where gradients do not underflow."""
        if self.level is None or self.dtype != "float16":
            return None
        return LossScaler(self.init_scale)


def choose_precision(asked: bool, config: Mapping[str, Any]) -> Precision:
    """Return the precision for this device.

    Args:
        asked: mixed precision is wanted.
        config: ``amp_level``, ``amp_dtype`` (``auto``: float16), ``init_loss_scaling``, ``custom_white_list`` and
            ``custom_black_list`` are looked at.

    Returns:
        float32 where the device has nothing else: always on a CPU, on which Paddle's auto_cast has no effect, whatever
        the processor can do.

    Raises:
        UserError: an operator on both lists, or a type asked for by name that the GPU does not have.
    """
    if not asked:
        return Precision()
    level, dtype = config.get("amp_level") or "O1", config.get("amp_dtype") or "auto"
    scale = float(config.get("init_loss_scaling") or 65536.0)
    white, black = (_names(config.get(f"custom_{kind}_list")) for kind in ("white", "black"))
    both = sorted(set(white) & set(black))
    if both:
        raise UserError(f"'{both[0]}' is in custom_white_list and in custom_black_list")
    if paddle.get_device().startswith("cpu"):
        logger.warning("AMP was asked for, but Paddle has none on a CPU: AMP is not had, training runs in float32")
        return Precision()
    chosen = "float16" if dtype == "auto" else dtype
    if paddle.get_device().startswith("gpu") and not _has(chosen):
        if dtype != "auto":
            other = {"float16": "bfloat16", "bfloat16": "float16"}[chosen]
            advice = f"set amp_dtype to {other}" if _has(other) else "train without --amp"
            raise UserError(f"amp_dtype is {dtype}, which this GPU does not have: {advice}")
        logger.warning("AMP was asked for, but this GPU has no float16: AMP is not had, training runs in float32")
        return Precision()
    scaling = f" with loss scaling from {scale:g}" if chosen == "float16" else ""
    logger.info("mixed precision: %s%s, level %s", chosen, scaling, level)
    return Precision(level, chosen, scale, white, black)


def check_optimizer(optimizer: Optimizer, precision: Precision) -> None:
    """Check that the optimizer can update weights in half precision on this GPU, which level O2 needs.

    Paddle 2.6 has no bfloat16 kernel for Momentum, and would end with a traceback in the first step.

    Raises:
        UserError: Paddle has a GPU kernel of this optimizer, but not for the type.
    """
    if precision.level != "O2" or not paddle.get_device().startswith("gpu"):
        return
    name = type(optimizer).__name__
    kernels = core._get_registered_phi_kernels("all").get(name.lower(), ())
    types = {kernel.strip("()").split(", ")[-1] for kernel in kernels if kernel.startswith("(GPU,")}
    if types and precision.dtype not in types:
        other = f" or amp_dtype to float16 (now {precision.dtype})" if "float16" in types else ""
        raise UserError(
            f"PaddlePaddle {paddle.__version__} has no {precision.dtype} kernel of the optimizer {name} for a GPU, "
            f"which amp_level O2 needs: set amp_level to O1{other}, or choose another OptimizerBuilder.optimizer.type"
        )


def _names(operators: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(sorted(operators or ()))


def _has(dtype: str) -> bool:
    supported = paddle.amp.is_float16_supported if dtype == "float16" else paddle.amp.is_bfloat16_supported
    return bool(supported())
