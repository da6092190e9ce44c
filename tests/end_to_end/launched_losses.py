"""One backward of the small model on a share of a batch, started by ``paddle.distributed.launch``.

Arguments: configuration, file for what is found, whether counts are global (0 or 1), objects of each image.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from ppdet.core.config.settings import RuntimeSettings  # noqa: E402
from ppdet.core.workspace import create, load_config  # noqa: E402
from ppdet.engine.distributed.env import gather_objects, is_main, rank, world_size  # noqa: E402
from ppdet.engine.runtime import Runtime  # noqa: E402
from tests.end_to_end.test_switches import batch  # noqa: E402


def take(inputs: dict[str, paddle.Tensor], first: int, count: int) -> dict[str, paddle.Tensor]:
    """Some images of a batch; the slots for objects stay as many as the batch has."""
    return {name: value[first : first + count] for name, value in inputs.items()}


def gradients(config_file: str, inputs: dict[str, paddle.Tensor]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Gradients of this process's share of a batch, exchanged where there are several processes, and its losses."""
    config = load_config(config_file)
    paddle.seed(1)
    model = create(config, config.architecture)
    model.train()
    network = model if world_size() == 1 else paddle.DataParallel(model)
    losses = network(inputs)
    losses["loss"].backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.trainable}
    return found, {name: float(value) for name, value in losses.items()}


def main() -> None:
    """Write the gradients after the exchange, and the mean losses of the processes."""
    config_file, output, global_counts, *objects = sys.argv[1:]
    share = len(objects) // world_size()
    with Runtime(RuntimeSettings(global_loss_norm=global_counts == "1")):
        inputs = batch([int(count) for count in objects])
        found, losses = gradients(config_file, take(inputs, rank() * share, share))
        mean = {f"mean {name}": np.mean([own[name] for own in gather_objects(losses)]) for name in losses}
    if is_main():
        np.savez(output, **found, **mean)


if __name__ == "__main__":
    main()
