"""What a training starts with: optimizer and average around the model, and its state."""

from __future__ import annotations

import time

import paddle
from paddle.nn import Layer

from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create
from ppdet.engine.data import Loader
from ppdet.engine.distributed.env import world_size
from ppdet.engine.precision import Precision, check_optimizer
from ppdet.engine.session import Session
from ppdet.engine.training.checkpoint import RunState, TrainParts
from ppdet.engine.training.optimizer_state import scheduler_of
from ppdet.engine.training.resume import resume
from ppdet.optimizer import ModelEMA
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["NothingLeft", "begin", "build_parts", "session_parts", "steps_of_epoch"]

logger = setup_logger(__name__)

OFFICIAL_BATCH = 16
"""Images per step for which the base learning rates of the official schedules are set."""


class NothingLeft(UserError):
    """The checkpoint to continue from has all epochs of the training.

    Attributes:
        state: of the checkpoint.
    """

    def __init__(self, state: RunState, epochs: int) -> None:
        super().__init__(
            f"nothing left to train: the checkpoint has {state.epoch} epochs of {epochs}; "
            "set a larger epoch to train on"
        )
        self.state = state


def steps_of_epoch(loader: Loader, accumulate: int) -> int:
    """Return how many steps an epoch has; batches that do not fill a step are left out.

    Args:
        loader: of the training.
        accumulate: batches per step.

    Raises:
        UserError: it has none.
    """
    steps = len(loader) // accumulate
    if steps == 0:
        raise UserError("the training set has fewer images than one step takes; lower TrainReader.batch_size")
    return steps


def session_parts(session: Session, loader: Loader) -> TrainParts:
    """Build what a training changes around the model of a session.

    Raises:
        UserError: the dataset is too small for a step, or the optimizer cannot work in the precision.
    """
    accumulate = session.settings.accumulate_steps
    steps = steps_of_epoch(loader, accumulate)
    images_per_step = loader.batch_size * accumulate * world_size()
    images = len(loader.dataset)
    parts = build_parts(session.config, session.model, session.precision, steps, images, images_per_step)
    parts.categories = session.categories
    session.model = parts.model
    return parts


def build_parts(
    config: Config, model: Layer, precision: Precision, steps: int, images: int, total_batch: int
) -> TrainParts:
    """Build optimizer, average and loss scaler around a model.

    Args:
        config: sections ``LearningRate`` and ``OptimizerBuilder``, and settings of the run.
        model: to be trained; AMP level O2 changes its weights to half precision.
        precision: how steps compute.
        steps: steps per epoch.
        images: images of the dataset.
        total_batch: images per step, over all processes and accumulated batches.

    Raises:
        UserError: the optimizer cannot work in the precision.
    """
    rate = create(config, "LearningRate")
    settings = RuntimeSettings.from_config(config)
    scaling = settings.auto_scale_lr
    if scaling:
        base = OFFICIAL_BATCH if scaling is True else int(scaling)
        rate.base_lr *= total_batch / base
        logger.info("base_lr scaled to %g for %d images per step (set for %d)", rate.base_lr, total_batch, base)
    optimizer = create(config, "OptimizerBuilder")(rate(steps), model)
    check_optimizer(optimizer, precision)
    if precision.level == "O2":
        model, optimizer = paddle.amp.decorate(model, optimizer, level="O2", dtype=precision.dtype)
    ema = None
    if settings.use_ema:
        ema = ModelEMA(model, settings.ema_decay, settings.ema_decay_type, optimizer)
    logger.info("%d images, %d steps per epoch, %d images per step", images, steps, total_batch)
    return TrainParts(model, optimizer, ema, precision.scaler())


def begin(
    config: Config, parts: TrainParts, steps: int, seed: int, resume_from: str | None, validate: bool
) -> RunState:
    """Return the state to start with: a new one, or that of a checkpoint, which is loaded into the parts.

    Raises:
        NothingLeft: the checkpoint has all epochs.
        UserError: the checkpoint does not fit.
    """
    settings = RuntimeSettings.from_config(config)
    if not settings.epoch:
        raise UserError(f"the configuration does not set 'epoch' ({config.filename})")
    if resume_from is None:
        return RunState(steps_per_epoch=steps, seed=seed, started=time.time())
    state = resume(resume_from, parts)
    state.started = max(time.time(), state.started)
    if settings.seed is not None and state.seed != seed:
        logger.warning("seed %d of the checkpoint is used, not seed %d of the configuration", state.seed, seed)
    if state.epoch >= settings.epoch and not (validate and state.eval_due):
        raise NothingLeft(state, settings.epoch)
    if state.steps_per_epoch != steps and state.iteration:
        raise UserError(
            f"cannot resume in the middle of an epoch of {state.steps_per_epoch} steps: it has {steps} now (another "
            "dataset, batch size or number of processes); resume from the end of an epoch"
        )
    if state.steps_per_epoch != steps:
        logger.warning("an epoch now has %d steps instead of %d", steps, state.steps_per_epoch)
        state.steps_per_epoch, state.step = steps, state.epoch * steps
        schedule = scheduler_of(parts.optimizer)
        if schedule is not None:
            schedule.step(state.step)
    return state
