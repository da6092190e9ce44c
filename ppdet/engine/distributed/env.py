"""The processes of a training or evaluation: how many there are, which one this is, and how they exchange values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import cv2
import paddle
import paddle.distributed as dist

from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine.distributed.roll_call import roll_call
from ppdet.utils.errors import UserError

__all__ = ["gather_objects", "init_parallel", "is_main", "rank", "require_same", "world_size"]


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1") or 1)


def rank() -> int:
    """Return the index of this process among them."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def is_main() -> bool:
    """Return whether this is the process that logs and writes files."""
    return rank() == 0


def init_parallel(settings: RuntimeSettings) -> None:
    """Join the other processes if ``paddle.distributed.launch`` started several."""
    if world_size() > 1 and not dist.is_initialized():
        if paddle.get_device().startswith("cpu"):  # the launcher looks at the machine, not at use_gpu
            os.environ.setdefault("PADDLE_DISTRI_BACKEND", "gloo")
        roll_call(settings.join_timeout)
        dist.init_parallel_env()
    if world_size() > 1:
        # The processes share the cores, and OpenCV would start a thread per core in each of them.
        cv2.setNumThreads(0)


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's ``value`` in the order of ranks, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = []
    dist.all_gather_object(gathered, value)
    return gathered


def require_same(facts: Mapping[str, Any]) -> None:
    """Check that all processes were started with the same settings; otherwise they would hang or train nonsense.

    Args:
        facts: what must be equal on all processes, by a name in the plural.

    Raises:
        UserError: on all processes, if a value differs.
    """
    shown = gather_objects({name: str(value) for name, value in facts.items()})
    for name in facts:
        values = [own[name] for own in shown]
        differing = next((index for index, value in enumerate(values) if value != values[0]), None)
        if differing is not None:
            raise UserError(
                f"the processes of this training have different {name}: {values[0]} on rank 0, {values[differing]} on "
                f"rank {differing}; start all with the same command, code and files"
            )
