"""Process environment: device, ranks, random streams, and what a run writes down about itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import paddle.distributed as dist

from deploy.common.machine import available_cores
from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine.distributed.roll_call import roll_call
from ppdet.engine.training.run_facts import command_line, host_facts
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "choose_seed",
    "describe_run",
    "gather_objects",
    "init_parallel",
    "is_main",
    "memory_text",
    "rank",
    "require_same",
    "revision",
    "seed_step",
    "select_device",
    "world_size",
]

logger = setup_logger(__name__)


def world_size() -> int:
    """Number of training processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1") or 1)


def rank() -> int:
    """Index of this process among them."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def is_main() -> bool:
    """Whether this is the process that logs and writes files."""
    return rank() == 0


def select_device(settings: RuntimeSettings) -> str:
    """Set and return Paddle's device from ``use_gpu``, ``use_xpu``, ``use_npu``, ``use_mlu`` and ``use_gcu``.

    A configuration written for a GPU runs on a machine without one, on the CPU, and the log says so.

    Raises:
        UserError: another accelerator is asked for that this Paddle was not built for.
    """
    # of this node, among those that CUDA_VISIBLE_DEVICES shows; the launcher's choice, with one process as with several
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
    """Let the mathematics of this process use its share of the cores.

    Importing Paddle sets OMP_NUM_THREADS to 1 where it is not set, which halves the speed of a two-core machine.
    Another value than 1 is the user's own choice and stays.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        paddle.base.core.set_num_threads(max(1, available_cores() // world_size()))


def _set_device(name: str) -> str:
    paddle.set_device(name)
    return name


def init_parallel(settings: RuntimeSettings) -> None:
    """Join the other processes if ``paddle.distributed.launch`` started several."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device().startswith("cpu"):  # the launcher looks at the machine, not at use_gpu
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        roll_call(settings.join_timeout)
        dist.init_parallel_env()
    if world_size() > 1:
        # Several processes share the cores; OpenCV would start threads for each of them.
        cv2.setNumThreads(0)


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's ``value`` in the order of ranks, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = []
    dist.all_gather_object(gathered, value)
    return gathered


def require_same(facts: Mapping[str, Any]) -> None:
    """Refuse to go on with processes that were started differently, which would hang or train nonsense.

    Args:
        facts: what has to be the same on all of them, with its name in the plural.

    Raises:
        UserError: it is not; on all of them alike.
    """
    shown = gather_objects({name: str(value) for name, value in facts.items()})
    for name in facts:
        values = [own[name] for own in shown]
        other = next((index for index, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise UserError(
                f"the processes of this training have different {name}: {values[0]} on rank 0, {values[other]} on "
                f"rank {other}; start all with the same command, code and files"
            )


def choose_seed(configured: int | None) -> int:
    """Return the configured seed, or a new one; the same on every rank."""
    own = secrets.randbelow(2**31) if configured is None else int(configured)
    return int(gather_objects(own)[0])


def seed_step(seed: int, step: int, process: int | None = None) -> None:
    """Start all random streams of the main process anew for one step.

    With this a stream depends on (seed, rank, step) alone: a resumed run draws what the uninterrupted one would have
    drawn, on every version of Paddle and every device, without any generator state in the checkpoint. Step 0 is the
    initialisation, the same on every rank.

    Args:
        seed: of the training.
        step: counted from 1.
        process: whose streams; this rank's by default.
    """
    own = rank() if process is None else process
    words = np.random.SeedSequence((seed, own if step else 0, step)).generate_state(3)
    paddle.seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))


def memory_text() -> str:
    """Memory of the device in MB: the largest use so far on a GPU, the process's present use on a CPU."""
    if paddle.get_device().startswith("gpu"):
        return f"{paddle.device.cuda.max_memory_allocated() // 2**20} MB"
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return f"{pages * os.sysconf('SC_PAGE_SIZE') // 2**20} MB"
    except OSError:
        return "?"  # not a Linux system


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def revision() -> str:
    """Git revision of the code, with a mark where files differ from it."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # no git here, or not a checkout
    return run.stdout.strip()


def describe_run(seed: int) -> str:
    """Return what is needed to repeat a run: command line, versions, revision, device, seed (text, one fact a line)."""
    packages = ("numpy", "opencv-python-headless", "opencv-python", "pycocotools", "faster-coco-eval")
    facts = {
        "command": command_line(),
        "revision": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "paddle": paddle.__version__,
        **{package: _version(package) for package in packages},
        **host_facts(),
        "device": paddle.get_device(),
        "processes": world_size(),
        "seed": seed,
    }
    return "".join(f"{key}: {value}\n" for key, value in facts.items())
