"""Random streams: every one is a function of seed, rank and step, so that a checkpoint needs no generator state."""

from __future__ import annotations

import random
import secrets

import numpy as np
import paddle

from ppdet.engine.distributed.env import gather_objects, rank

__all__ = ["choose_seed", "seed_step"]


def choose_seed(configured: int | None) -> int:
    """Return the configured seed, or a random one; the same on every rank."""
    own = secrets.randbelow(2**31) if configured is None else int(configured)
    return int(gather_objects(own)[0])


def seed_step(seed: int, step: int, process: int | None = None) -> None:
    """Reseed all generators of the main process for one step.

    A resumed run therefore draws what the uninterrupted one would have drawn, on every version of Paddle and on every
    device. Step 0 is the initialisation, which is the same on every rank.

    Args:
        seed: of the training.
        step: counted from 1.
        process: the rank whose streams to use; this rank by default.
    """
    own = rank() if process is None else process
    words = np.random.SeedSequence((seed, own if step else 0, step)).generate_state(3)
    paddle.seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))
