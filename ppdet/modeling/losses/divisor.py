"""What losses are divided by: counts of this process (the authors), or of all processes together.

Training averages the gradients of its W processes. With counts of its own a process with few objects weighs each of
them more than the others do, so that the result depends on how the batch was split. With ``global_loss_norm`` every
count is summed over the processes and divided by W: the average of the gradients is then that of one process with the
whole batch. Each count costs one exchange of a single number, on the device, in the same place on every process.

With accumulated gradients each of a step's batches is divided by its own counts, over all processes; batches weigh the
same, whatever is in them, as they do in a single process.
"""

from __future__ import annotations

import paddle.distributed as dist
from paddle import Tensor

__all__ = ["divisor_of", "use_global_counts"]

_processes = 1
"""Processes over which counts are summed; 1 = each has its own."""


def use_global_counts(wanted: bool) -> None:
    """Let losses of this process be divided by the counts of all processes, or (again) by its own.

    To be called alike on all of them, after `paddle.distributed.init_parallel_env`.
    """
    global _processes
    _processes = dist.get_world_size() if wanted else 1


def divisor_of(count: Tensor) -> Tensor:
    """max(count, 1); with global counts max(sum of the processes' counts, 1) / processes.

    Args:
        count: 0-D or [1], how many terms this process's sum has.

    Returns:
        float32, in the shape of ``count``.
    """
    total = count.detach().astype("float32")
    if _processes == 1:
        return total.clip(min=1.0)
    total = total.clone()  # astype may have returned what the caller still counts with
    dist.all_reduce(total)
    return total.clip(min=1.0) / float(_processes)
