"""What a run records about itself, so that it can be repeated: configuration, classes, command, versions, machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import paddle

from deploy.common.atomic import atomic_writer
from deploy.common.machine import available_cores
from ppdet.core.workspace import Config, dump_config
from ppdet.engine.distributed.env import is_main, world_size
from ppdet.engine.run_name import run_name
from ppdet.engine.training.run_state import RunState
from ppdet.structures.categories import Categories

__all__ = ["command_line", "describe_run", "revision", "write_facts"]

_SETTINGS = ("FLAGS_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUBLAS_", "NCCL_", "CUDA_VISIBLE_DEVICES")
"""Beginnings of the names of environment variables that change how a run computes."""


def command_line() -> str:
    """Return the command that started this process, quoted so that it can be pasted into a shell."""
    return shlex.join([sys.executable, *sys.argv])


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not a Linux system
    return platform.processor() or platform.machine()


def _host_facts() -> dict[str, str]:
    """Return facts about the machine, its libraries and the environment, by name."""
    cuda, cudnn = (str(version()) for version in (paddle.version.cuda, paddle.version.cudnn))
    settings = sorted(name for name in os.environ if name.startswith(_SETTINGS))
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def revision() -> str:
    """Return the Git revision of the code, marked as dirty if files differ from it."""
    root = Path(__file__).resolve().parents[3]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # Git is not installed, or this is no checkout
    return run.stdout.strip()


def describe_run(seed: int) -> str:
    """Return what is needed to repeat a run (command line, versions, revision, device, seed), one fact per line."""
    packages = ("numpy", "opencv-python-headless", "opencv-python", "pycocotools", "faster-coco-eval")
    facts = {
        "command": command_line(),
        "revision": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "paddle": paddle.__version__,
        **{package: _version(package) for package in packages},
        **_host_facts(),
        "device": paddle.get_device(),
        "processes": world_size(),
        "seed": seed,
    }
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


def write_facts(folder: Path, config: Config, categories: Categories | None, state: RunState) -> None:
    """Write the configuration, the classes and the facts of this start into the run's folder, on rank 0.

    Args:
        folder: of the run; ``run.txt`` keeps the facts of earlier starts if the run is resumed.
        config: of the training.
        categories: the trained classes; None if the dataset does not name them.
        state: where the training starts.
    """
    if not is_main():
        return
    with atomic_writer(folder / "config.yml", "w") as stream:
        named = config.copy()
        named["run_name"] = run_name(config)  # so that a training with this file continues the run
        stream.write(dump_config(named))
    if categories is not None:
        with atomic_writer(folder / "categories.json", "w") as stream:
            stream.write(categories.to_json() + "\n")
    file = folder / "run.txt"
    earlier = file.read_text(encoding="utf-8") + "\n" if state.step and file.is_file() else ""
    with atomic_writer(file, "w") as stream:
        stream.write(f"{earlier}start: after {state.step} steps\n{describe_run(state.seed)}")
