"""Divisors of losses: counts of this process (the authors) or of all processes together.

Training averages the gradients of its W processes. If each process divides by its own counts, the objects of a process
with few of them weigh more than those of the others, and the result depends on how the batch was split. With
``global_loss_norm`` every count is summed over the processes and divided by W, so that the average of the gradients is
that of one process with the whole batch. Each count costs one all-reduce of a single number, which stays on the device
and comes at the same point on every process.

With gradient accumulation each of the batches of a step is divided by its own counts, summed over all processes; all
batches have the same weight, whatever they contain, as in a single process.
"""

from __future__ import annotations

import paddle.distributed as dist
from paddle import Tensor

from ppdet.core.switches import switches

__all__ = ["divisor_of"]


def divisor_of(count: Tensor) -> Tensor:
    """Return max(count, 1); with global counts max(sum of the counts of all processes, 1) / processes.

    Args:
        count: 0-D or [1], number of terms in the sum of this process.

    Returns:
        float32 in the shape of ``count``.
    """
    total = count.detach().astype("float32")
    processes = switches().count_processes
    if processes == 1:
        return total.clip(min=1.0)
    total = total.clone()  # astype may have returned the tensor of the caller
    dist.all_reduce(total)
    return total.clip(min=1.0) / float(processes)
