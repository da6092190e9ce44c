"""What decides, beside configuration and code, which numbers a run comes to: machine, threads, flags."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import paddle

from deploy.common.machine import available_cores
from ppdet.utils.logger import setup_logger

__all__ = ["command_line", "host_facts", "make_deterministic"]

logger = setup_logger(__name__)

DETERMINISTIC: Mapping[str, bool | int] = {
    "FLAGS_cudnn_deterministic": True,
    "FLAGS_cudnn_exhaustive_search": False,
    "FLAGS_embedding_deterministic": 1,
    "FLAGS_cpu_deterministic": True,
}
"""Flags that let an operator choose an algorithm by its result's order of sums instead of by its speed."""

_SHOWN = ("FLAGS_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUBLAS_", "NCCL_", "CUDA_VISIBLE_DEVICES")


def command_line() -> str:
    """Return the command that started this process, quoted so that a shell takes it back."""
    return shlex.join([sys.executable, *sys.argv])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not a Linux system
    return platform.processor() or platform.machine()


def host_facts() -> dict[str, str]:
    """Return facts about machine, libraries and settings by name."""
    cuda, cudnn = (str(version()) for version in (paddle.version.cuda, paddle.version.cudnn))
    settings = sorted(name for name in os.environ if name.startswith(_SHOWN))
    facts = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": os.getcwd(),
        "processor": _processor(),
        "cores": f"{available_cores()} of {os.cpu_count()}",
        "paddle revision": paddle.version.commit,
        "CUDA": "none" if cuda == "False" else cuda,
        "cuDNN": "none" if cudnn == "False" else cudnn,
        "settings": shlex.join(f"{name}={os.environ[name]}" for name in settings) or "none",
    }
    if paddle.get_device().startswith("gpu"):
        facts["GPU"] = paddle.device.cuda.get_device_name()
    return facts


def make_deterministic() -> list[str]:
    """Set those of the flags of `DETERMINISTIC` that this build of Paddle has, and return their names."""
    found = []
    for name, value in DETERMINISTIC.items():
        try:
            paddle.set_flags({name: value})
        except ValueError:  # a build without CUDA does not know cuDNN's
            continue
        found.append(name)
    if paddle.is_compiled_with_cuda():
        logger.info(
            "deterministic algorithms are on (slower); on a GPU two runs still differ in rounding, because the "
            "gradient of RoIAlign adds up in no fixed order"
        )
    return found
