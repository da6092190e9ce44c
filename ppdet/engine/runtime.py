"""The context of a run: device, training processes, and everything that its settings switch for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import ClassVar

import paddle
import paddle.distributed as dist

from ppdet import ext_op
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.switches import switched
from ppdet.engine.device import select_device
from ppdet.engine.distributed.env import init_parallel
from ppdet.utils.logger import setup_logger

__all__ = ["DETERMINISTIC", "Runtime"]

logger = setup_logger(__name__)

DETERMINISTIC: dict[str, bool | int] = {
    "FLAGS_cudnn_deterministic": True,
    "FLAGS_cudnn_exhaustive_search": False,
    "FLAGS_embedding_deterministic": 1,
    "FLAGS_cpu_deterministic": True,
}
"""Paddle's flags that make operators choose algorithms with a fixed order of summation over faster ones."""


class Runtime:
    """Makes the settings of a run effective inside a ``with`` block.

    The block selects the device, joins the other training processes, and switches the extension, global loss divisors
    and deterministic algorithms. Leaving it restores the switches. Several runtimes may exist in a process, and their
    blocks may be nested; the same runtime may be entered again, also inside itself. The device is restored when a
    nested block ends. After the outermost one it stays selected, as after ``paddle.set_device``, so that a model can
    still be called on the device that holds its weights.

    Args:
        settings: of the run.
        deterministic: use deterministic algorithms.

    Raises:
        UserError: on entering: an accelerator that this Paddle does not support, or an extension that cannot be used.
    """

    _entered: ClassVar[list[Runtime]] = []

    def __init__(self, settings: RuntimeSettings, deterministic: bool = False) -> None:
        self.settings = settings
        self.deterministic = deterministic
        self._device = ""
        self._exits: list[ExitStack] = []
        self._announced = False

    def __enter__(self) -> Runtime:
        self._set_device()
        with ExitStack() as stack:
            stack.callback(self._restore_device)
            init_parallel(self.settings)
            if self.settings.use_ext_op:
                ext_op.require()
            processes = dist.get_world_size() if self.settings.global_loss_norm else 1
            stack.enter_context(switched(extension=self.settings.use_ext_op, count_processes=processes))
            if self.deterministic:
                stack.enter_context(self._deterministic_algorithms())
            self._entered.append(self)
            stack.callback(self._entered.pop)
            self._exits.append(stack.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.pop().close()

    def _set_device(self) -> None:
        if self._device:
            paddle.set_device(self._device)
        else:
            self._device = select_device(self.settings)

    def _restore_device(self) -> None:
        if self._entered:
            self._entered[-1]._set_device()

    @contextmanager
    def _deterministic_algorithms(self) -> Iterator[None]:
        before = {}
        for name in DETERMINISTIC:
            try:
                before.update(paddle.get_flags([name]))
            except ValueError:  # builds without CUDA do not have the flags of cuDNN
                continue
        paddle.set_flags({name: DETERMINISTIC[name] for name in before})
        if paddle.is_compiled_with_cuda() and not self._announced:
            self._announced = True
            logger.info(
                "deterministic algorithms are on (slower); on a GPU two runs still differ by rounding errors, because "
                "the gradient of RoIAlign is accumulated in no fixed order"
            )
        try:
            yield
        finally:
            paddle.set_flags(before)
