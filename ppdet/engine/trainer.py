"""The public object of ``tools/train.py``: a session that can also train."""

from __future__ import annotations

from ppdet.core.workspace import Config
from ppdet.engine.distributed.peers import watched
from ppdet.engine.run_name import run_folder
from ppdet.engine.session import Session
from ppdet.engine.training.callbacks import Callback
from ppdet.engine.training.checkpoint import RunState
from ppdet.engine.training.replay import replay
from ppdet.engine.training.run_lock import run_lock
from ppdet.engine.training.training import Training, TrainOptions

__all__ = ["Trainer"]


class Trainer(Session):
    """A model built from a configuration, ready to be trained.

    Args:
        config: as loaded; it may have been changed since, and is checked again.
        amp: compute in half precision if the device supports it.
        deterministic: use deterministic algorithms.

    Attributes:
        folder: where everything of a run is written.

    Raises:
        UserError: the configuration is invalid, or cannot be used on this machine.
    """

    def __init__(self, config: Config, amp: bool = False, deterministic: bool = False) -> None:
        super().__init__(config, amp, deterministic)
        self.folder = run_folder(config)

    def train(
        self,
        validate: bool = False,
        resume_from: str | None = None,
        callbacks: tuple[Callback, ...] = (),
        overwrite: bool = False,
    ) -> RunState:
        """Train to the configured number of epochs.

        Args:
            validate: evaluate the weights of each saved epoch and keep the best ones.
            resume_from: checkpoint to continue from; an empty text stands for the newest complete one of this run,
                ``auto`` for the same, or a fresh start if there is none.
            callbacks: in addition to those that write the log, the scalars and the checkpoints.
            overwrite: remove the run that the folder holds; otherwise a fresh start in its folder is refused.

        Returns:
            Where the training ended.

        Raises:
            UserError: data, weights or settings do not fit, or a loss became infinite or NaN.
            KeyboardInterrupt: after Ctrl-C; a checkpoint to continue from has been written.
        """
        options = TrainOptions(validate, resume_from, overwrite)
        with self.runtime, watched(self.settings), run_lock(self.folder):
            return Training(self, self.folder, options, callbacks)()

    def replay(self, file: str, resume_from: str | None = None) -> None:
        """Repeat a step whose loss was not finite, and log which losses and gradients are not.

        Args:
            file: ``nonfinite_<step>.json`` of a run.
            resume_from: checkpoint with the weights; the newest complete one of this run if None or empty.

        Raises:
            UserError: the file, the checkpoint or the data do not fit, or there are several processes.
        """
        with self.runtime:
            replay(self, self.folder, file, resume_from)
