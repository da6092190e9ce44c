"""Repeating a step whose loss was not finite, to find out where the first such value arises."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import paddle

from ppdet.engine.data import Loader, train_loader
from ppdet.engine.distributed.env import world_size
from ppdet.engine.known_classes import KnownClasses
from ppdet.engine.random_streams import seed_step
from ppdet.engine.session import Session
from ppdet.engine.training.checkpoint import TrainParts, find_resumable
from ppdet.engine.training.nonfinite import BadStep, image_paths
from ppdet.engine.training.resume import resume
from ppdet.engine.training.start import session_parts
from ppdet.engine.training.train_step import TrainStep
from ppdet.structures.categories import categories_of
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["replay"]

logger = setup_logger(__name__)


def replay(session: Session, folder: Path, file: str, resume_from: str | None = None) -> None:
    """Repeat a step with the weights of a checkpoint, and log which losses and gradients are not finite.

    A step of one of several processes is repeated in a single one, with losses divided by its own counts.

    Args:
        session: with the model.
        folder: of the run.
        file: ``nonfinite_<step>.json`` of a run.
        resume_from: checkpoint with the weights; the newest complete one of the folder if None or empty.

    Raises:
        UserError: the file, the checkpoint or the data do not fit, or there are several processes.
    """
    if world_size() > 1:
        raise UserError("--replay repeats the step of one process: start it without paddle.distributed.launch")
    bad = BadStep.read(file)
    loader = train_loader(session.config, bad.seed)
    session.classes = KnownClasses(categories_of(loader.dataset))
    parts = session_parts(session, loader)
    resume(resume_from or find_resumable(folder), parts)
    forward = TrainStep(session.model, parts, session.precision).backward
    _replay_step(parts, forward, loader, bad, session.settings.accumulate_steps)


def _replay_step(parts: TrainParts, forward: Any, loader: Loader, bad: BadStep, accumulate: int) -> None:
    """Repeat forward and backward of a step; log its losses and the parameters whose gradient is not finite.

    Args:
        parts: with the weights of a checkpoint.
        forward: adds the gradients of a batch and returns its losses.
        loader: of the training.
        bad: the step.
        accumulate: batches per step.

    Raises:
        UserError: the loader has other images at that step, because the data or ``accumulate_steps`` have changed.
    """
    if not bad.images or len(bad.images) % accumulate:
        raise UserError(f"step {bad.step} has {len(bad.images)} images, accumulate_steps is {accumulate} now")
    loader.set_share(bad.rank, bad.processes, len(bad.images) // accumulate)
    loader.set_seed(bad.seed)
    loader.set_epoch(bad.epoch, (bad.iteration - 1) * accumulate)
    batches = list(islice(iter(loader), accumulate))
    if image_paths(batches) != bad.images:
        raise UserError(f"step {bad.step} now has other images: the data or accumulate_steps have changed")
    seed_step(bad.seed, bad.step, bad.rank)
    parts.model.train()
    logger.info("step %d again, on %s", bad.step, ", ".join(bad.images))
    for batch in batches:
        losses = forward(batch, len(batches))
        logger.info("losses: %s", ", ".join(f"{name} = {float(value)}" for name, value in losses.items()))
    faulty = [
        name
        for name, parameter in parts.model.named_parameters()
        if parameter.grad is not None and not bool(paddle.isfinite(parameter.grad).all())
    ]
    logger.info("parameters whose gradient is not finite: %s", ", ".join(faulty) or "none")
