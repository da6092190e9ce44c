"""The device that a process computes on, its memory, and its share of the cores."""

from __future__ import annotations

import os
from pathlib import Path

import paddle

from deploy.common.machine import available_cores
from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine.distributed.env import world_size
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["memory_text", "select_device"]

logger = setup_logger(__name__)


def select_device(settings: RuntimeSettings) -> str:
    """Set and return Paddle's device from ``use_gpu``, ``use_xpu``, ``use_npu``, ``use_mlu`` and ``use_gcu``.

    On a machine without a GPU, a configuration with ``use_gpu`` runs on the CPU, and a warning is logged.

    Raises:
        UserError: this Paddle was built without support for the selected accelerator.
    """
    # The launcher's choice among the GPUs of this node that CUDA_VISIBLE_DEVICES shows, for any number of processes.
    local = int(os.environ.get("FLAGS_selected_gpus", "").split(",")[0] or 0)
    for kind in ("xpu", "npu", "mlu", "gcu"):
        if getattr(settings, f"use_{kind}"):
            available = paddle.is_compiled_with_xpu() if kind == "xpu" else kind in paddle.device.get_all_device_type()
            if not available:
                raise UserError(f"use_{kind} is true, but this PaddlePaddle was built without {kind.upper()} support")
            return _set_device(kind)
    if settings.use_gpu:
        if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0:
            return _set_device(f"gpu:{local}")
        why = "no GPU is visible" if paddle.is_compiled_with_cuda() else "this PaddlePaddle was built without CUDA"
        logger.warning("use_gpu is true, but %s: running on the CPU", why)
    _use_all_cores()
    return _set_device("cpu")


def _use_all_cores() -> None:
    """Let the operators of this process use its share of the cores.

    Importing Paddle sets OMP_NUM_THREADS to 1 if it is not set, which halves the speed of a machine with two cores. Any
    other value was set by the user and is kept.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        paddle.base.core.set_num_threads(max(1, available_cores() // world_size()))


def _set_device(name: str) -> str:
    paddle.set_device(name)
    return name


def memory_text() -> str:
    """Return the memory in use as text: the peak of a GPU so far, or what the process uses now on a CPU."""
    if paddle.get_device().startswith("gpu"):
        return f"{paddle.device.cuda.max_memory_allocated() // 2**20} MB"
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return f"{pages * os.sysconf('SC_PAGE_SIZE') // 2**20} MB"
    except OSError:
        return "?"  # not a Linux system
