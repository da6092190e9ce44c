"""A training from the options of its caller to its last checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paddle
from paddle.nn import Layer

from deploy.common.atomic import remove_leftovers, writable_dir
from ppdet.checkpoint.fetch import local_weights
from ppdet.checkpoint.weights import load_pretrained
from ppdet.core.workspace import dump_config
from ppdet.engine.data import Loader, train_loader
from ppdet.engine.distributed.env import is_main, require_same, world_size
from ppdet.engine.known_classes import KnownClasses
from ppdet.engine.model_and_data import check_train_data
from ppdet.engine.session import Session
from ppdet.engine.training.callbacks import Callback, LogPrinter
from ppdet.engine.training.checkpoint import RunState, TrainParts, checkpoint_stem, find_resumable
from ppdet.engine.training.checkpointer import Checkpointer
from ppdet.engine.training.loop import TrainLoop
from ppdet.engine.training.nonfinite import StepGuard
from ppdet.engine.training.run import Run
from ppdet.engine.training.run_facts import revision, write_facts
from ppdet.engine.training.run_folder import AUTO, LOG, check_start, clear, has_checkpoint
from ppdet.engine.training.scalars import ScalarWriter
from ppdet.engine.training.start import NothingLeft, begin, session_parts, steps_of_epoch
from ppdet.engine.training.train_step import TrainStep
from ppdet.engine.training.validation import Validation
from ppdet.structures.categories import categories_of
from ppdet.utils.logger import add_log_file, cut_log_file, setup_logger

__all__ = ["TrainOptions", "Training"]

logger = setup_logger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training that are chosen by its caller.

    Attributes:
        validate: evaluate the weights of each saved epoch and keep the best ones.
        resume_from: checkpoint to continue from; an empty text stands for the newest complete one of the run's folder,
            `AUTO` for the same, or a fresh start if there is none; None for a fresh start.
        overwrite: remove the run that the folder holds.
    """

    validate: bool = False
    resume_from: str | None = None
    overwrite: bool = False


class Training:
    """A training: called once, it prepares folder, data, weights and parts, and runs the loop.

    Whatever a mistake of the user can affect is prepared first, and in the order of its cost: a wrong path does not
    cost the time of a download, and no mistake costs the run that is to be overwritten.

    Args:
        session: with the model.
        folder: of the run.
        options: of the caller.
        callbacks: in addition to those that write the log, the scalars and the checkpoints.
    """

    def __init__(
        self, session: Session, folder: Path, options: TrainOptions, callbacks: Sequence[Callback] = ()
    ) -> None:
        self._session, self._settings = session, session.settings
        self._folder, self._options, self._callbacks = folder, options, tuple(callbacks)

    def __call__(self) -> RunState:
        """Train; return where the training ended.

        Raises:
            UserError: data, weights or settings do not fit, or a loss became infinite or NaN.
            KeyboardInterrupt: after Ctrl-C.
        """
        self._require_same_start()
        earlier_log = self._open_folder()
        checkpoint = self._checkpoint()
        loader = self._load_data()
        if checkpoint is None:
            self._load_pretrained()
        parts = session_parts(self._session, loader)
        try:
            state = self._begin(loader, parts, checkpoint)
        except NothingLeft as complete:
            if self._options.resume_from != AUTO:
                raise
            logger.info("%s has all %d epochs: nothing to do", checkpoint, complete.state.epoch)
            return complete.state
        run = self._run(parts, state, checkpoint)
        checkpointer = Checkpointer()
        observers = (LogPrinter(), checkpointer, ScalarWriter(), *self._callbacks)
        if self._options.validate:
            run.evaluate = Validation(self._session, run, observers)
        if self._options.overwrite and is_main():
            clear(self._folder)
            cut_log_file(self._folder / LOG, earlier_log)
        write_facts(self._folder, self._session.config, self._session.categories, state)
        settings = self._settings
        train = TrainLoop(
            run=run,
            loader=loader,
            train_step=self._step(run),
            observers=observers,
            log_iter=settings.log_iter,
            accumulate=settings.accumulate_steps,
        )
        train()
        checkpointer.farewell(run)
        return state

    def _require_same_start(self) -> None:
        """Check that all processes were started alike.

        Raises:
            UserError: they were not.
        """
        options = self._options
        precision = self._session.precision.level or "float32"
        require_same(
            {
                "configurations": f"checksum {zlib.crc32(dump_config(self._session.config).encode()):08x}",
                "options": f"eval {options.validate}, resume {options.resume_from}, overwrite {options.overwrite}, "
                f"precision {precision}",
                "revisions of the code": revision(),
                "versions of Paddle": paddle.__version__,
            }
        )

    def _open_folder(self) -> int:
        """Prepare the folder for writing, on rank 0; return the size of the log of earlier runs.

        Raises:
            UserError: it cannot be written to, or holds another run.
        """
        if not is_main():
            return 0
        writable_dir(self._folder)
        check_start(self._folder, self._options.resume_from, self._options.overwrite)
        file = self._folder / LOG
        size = file.stat().st_size if file.is_file() else 0
        add_log_file(file)
        for leftover in remove_leftovers(self._folder):
            logger.info("removed %s, which a killed process left half written", leftover)
        return size

    def _checkpoint(self) -> str | None:
        """Return the checkpoint to continue from, or None for a fresh start.

        Raises:
            UserError: the folder has no complete one.
        """
        resume_from = self._options.resume_from
        if resume_from == AUTO and not has_checkpoint(self._folder):
            return None
        return str(find_resumable(self._folder)) if resume_from in (AUTO, "") else resume_from

    def _load_data(self) -> Loader:
        """Return the loader of this rank, its dataset being one that the model can learn from.

        Raises:
            UserError: the data are missing, or do not fit the model.
        """
        loader = train_loader(self._session.config, self._session.seed)
        check_train_data(self._session.model, loader.dataset)
        source = getattr(loader.dataset, "anno_path", "the training set")
        self._session.classes = KnownClasses(categories_of(loader.dataset), source)
        return loader

    def _load_pretrained(self) -> None:
        """Load the weights that a fresh start begins with, if the configuration names any.

        Raises:
            UserError: they do not fit the model.
        """
        if self._settings.pretrain_weights:
            file = local_weights(str(self._settings.pretrain_weights), "pretrain_weights")
            load_pretrained(self._session.model, file, self._session.categories)

    def _begin(self, loader: Loader, parts: TrainParts, checkpoint: str | None) -> RunState:
        """Return the state to begin with, the same on all processes.

        Raises:
            NothingLeft: the checkpoint has all epochs.
            UserError: the checkpoint does not fit.
        """
        session = self._session
        steps = steps_of_epoch(loader, self._settings.accumulate_steps)
        state = begin(session.config, parts, steps, session.seed, checkpoint, self._options.validate)
        require_same({"numbers of images": len(loader.dataset), "checkpoints": f"after {state.step} steps"})
        loader.set_seed(state.seed)
        return state

    def _run(self, parts: TrainParts, state: RunState, checkpoint: str | None) -> Run:
        """Describe the training for loop and callbacks."""
        settings = self._settings
        own = checkpoint is not None and checkpoint_stem(checkpoint).parent.resolve() == self._folder.resolve()
        return Run(
            folder=self._folder,
            parts=parts,
            state=state,
            epochs=settings.epoch,
            snapshot_epoch=settings.snapshot_epoch,
            snapshot_iter=settings.snapshot_iter,
            max_nonfinite_steps=settings.max_nonfinite_steps,
            max_keep_checkpoints=settings.max_keep_checkpoints,
            save_safetensors=settings.save_safetensors,
            resumed=self._folder / checkpoint_stem(str(checkpoint)).name if own else None,
        )

    def _step(self, run: Run) -> TrainStep:
        """Return what computes a step; with several processes the network exchanges the gradients."""
        network: Layer = run.parts.model
        if world_size() > 1:
            network = paddle.DataParallel(network, find_unused_parameters=self._settings.find_unused_parameters)
        guard = StepGuard(run.parts) if run.max_nonfinite_steps else None
        return TrainStep(network, run.parts, self._session.precision, guard)
