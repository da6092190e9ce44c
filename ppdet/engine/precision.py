"""Automatic mixed precision (AMP): the types that a step computes in, as far as the device supports them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import paddle
from paddle.amp import GradScaler
from paddle.base import core
from paddle.optimizer import Optimizer

from ppdet.core.config.settings import RuntimeSettings
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["LossScaler", "Precision", "check_optimizer", "choose_precision"]

logger = setup_logger(__name__)

SMALLEST_SCALE = 2.0**-16
"""If gradients still overflow below this factor, the loss scaling is not the cause."""


class LossScaler(GradScaler):
    """Paddle's loss scaling with an update that works with current versions of NumPy.

    A step with a gradient that is not finite is skipped and halves the factor; the factor is doubled after 2,000
    consecutive steps without one. As in PyTorch's scaler, one flag is read from the device in each step. (Paddle's own
    update prints ``float(scale)`` at an overflow, which fails with NumPy 2.4 and later and would end the training.)

    Args:
        init_scale: initial factor.

    Attributes:
        skipped: whether the last step was skipped.
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
        """Unscale the gradients unless that has been done, and update the weights if all gradients are finite."""
        super().step(optimizer)
        if self.is_enable():  # the optimizer has read the flag and keeps it
            self.skipped = bool(optimizer._get_auxiliary_var("found_inf"))

    def _update(self) -> None:
        """Adjust the factor after a step. Called by ``update`` of the base class.

        Raises:
            UserError: gradients are not finite even with the smallest factor.
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
        value = self._scale.numpy().item()  # no further wait: reading the flag has synchronised
        logger.info("a gradient is not finite: the step is skipped, and the loss scaling is lowered to %g", value)
        if value < SMALLEST_SCALE:
            raise UserError(
                f"training stopped: gradients are not finite even with the loss scaled by {value:g}; lower "
                "LearningRate.base_lr, set amp_dtype to bfloat16, or train without --amp"
            )


@dataclass(frozen=True)
class Precision:
    """The precision that a step computes in.

    Attributes:
        level: ``O1`` computes the operators of a list in half precision; ``O2`` stores the weights in half precision as
            well, with float32 copies in the optimizer; None computes in float32.
        dtype: ``float16`` or ``bfloat16``.
        init_scale: initial factor of the loss scaling, which float16 requires.
        white: operators computed in half precision, in addition to Paddle's list.
        black: operators computed in float32, in addition to Paddle's list.
    """

    level: str | None = None
    dtype: str = "float16"
    init_scale: float = 65536.0
    white: tuple[str, ...] = ()
    black: tuple[str, ...] = ()

    def context(self) -> AbstractContextManager[Any]:
        """Return the context manager for the forward pass."""
        if self.level is None:
            return nullcontext()
        return paddle.amp.auto_cast(
            level=self.level,
            dtype=self.dtype,
            custom_white_list=set(self.white) or None,
            custom_black_list=set(self.black) or None,
        )

    def scaler(self) -> GradScaler | None:
        """Return a loss scaler, or None for types whose gradients do not underflow."""
        if self.level is None or self.dtype != "float16":
            return None
        return LossScaler(self.init_scale)


def choose_precision(amp: bool, settings: RuntimeSettings) -> Precision:
    """Return the precision to compute in on the current device.

    Args:
        amp: whether mixed precision was requested.
        settings: of the run; ``amp_level``, ``amp_dtype``, ``init_loss_scaling``, ``custom_white_list`` and
            ``custom_black_list`` are used.

    Returns:
        The requested precision, or float32 if the device does not support it; always float32 on a CPU, where Paddle's
        auto_cast has no effect.

    Raises:
        UserError: an operator is on both lists, or the GPU does not support the type that ``amp_dtype`` names.
    """
    if not amp:
        return Precision()
    white, black = (_names(names) for names in (settings.custom_white_list, settings.custom_black_list))
    both = sorted(set(white) & set(black))
    if both:
        raise UserError(f"'{both[0]}' is both in custom_white_list and in custom_black_list: remove it from one")
    if paddle.get_device().startswith("cpu"):
        logger.warning("mixed precision was requested, but Paddle does not support it on a CPU: computing in float32")
        return Precision()
    dtype = "float16" if settings.amp_dtype == "auto" else settings.amp_dtype
    if paddle.get_device().startswith("gpu") and not _is_supported(dtype):
        if settings.amp_dtype != "auto":
            alternative = {"float16": "bfloat16", "bfloat16": "float16"}[dtype]
            advice = f"set amp_dtype to {alternative}" if _is_supported(alternative) else "train without --amp"
            raise UserError(f"amp_dtype is {dtype}, which this GPU does not support: {advice}")
        logger.warning("mixed precision was requested, but this GPU does not support float16: computing in float32")
        return Precision()
    scale = settings.init_loss_scaling
    scaling = f" with an initial loss scaling of {scale:g}" if dtype == "float16" else ""
    logger.info("mixed precision: %s%s, level %s", dtype, scaling, settings.amp_level)
    return Precision(settings.amp_level, dtype, scale, white, black)


def check_optimizer(optimizer: Optimizer, precision: Precision) -> None:
    """Check that the optimizer can update weights in half precision on this GPU, as level O2 requires.

    Paddle 2.6 has no bfloat16 kernel of Momentum; without this check the first step would fail.

    Raises:
        UserError: Paddle has a GPU kernel of this optimizer, but none for the type.
    """
    if precision.level != "O2" or not paddle.get_device().startswith("gpu"):
        return
    name = type(optimizer).__name__
    kernels = core._get_registered_phi_kernels("all").get(name.lower(), ())
    types = {kernel.strip("()").split(", ")[-1] for kernel in kernels if kernel.startswith("(GPU,")}
    if types and precision.dtype not in types:
        alternative = f" or amp_dtype to float16 (now {precision.dtype})" if "float16" in types else ""
        raise UserError(
            f"PaddlePaddle {paddle.__version__} has no {precision.dtype} kernel of the optimizer {name} for a GPU, "
            f"which amp_level O2 requires: set amp_level to O1{alternative}, or choose another "
            "OptimizerBuilder.optimizer.type"
        )


def _names(operators: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(sorted(operators or ()))


def _is_supported(dtype: str) -> bool:
    supported = paddle.amp.is_float16_supported if dtype == "float16" else paddle.amp.is_bfloat16_supported
    return bool(supported())
