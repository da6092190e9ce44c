"""The training loop: epochs, steps, timing, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

from ppdet.engine.data import Loader
from ppdet.engine.device import memory_text
from ppdet.engine.distributed.env import gather_objects, is_main, world_size
from ppdet.engine.distributed.interrupt import AgreedStop, StopRequest
from ppdet.engine.distributed.peers import note_progress
from ppdet.engine.random_streams import seed_step
from ppdet.engine.training.callbacks import Callback, Report
from ppdet.engine.training.loss_window import LossWindow
from ppdet.engine.training.run import Run
from ppdet.engine.training.train_step import TrainStep
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import Reminder, SmoothedValue

__all__ = ["TrainLoop"]

logger = setup_logger(__name__)

AGREE_STEPS = 50
"""Steps between two exchanges of the broken images that the processes have met."""


class TrainLoop:
    """The loop over epochs and steps.

    Args:
        run: state and parts of the training.
        loader: of this rank's batches.
        train_step: computes one step.
        observers: callbacks, called in this order.
        log_iter: steps between two reports, apart from the early ones after the first step and every minute.
        accumulate: batches per step.
    """

    def __init__(
        self,
        *,
        run: Run,
        loader: Loader,
        train_step: TrainStep,
        observers: tuple[Callback, ...],
        log_iter: int,
        accumulate: int,
    ) -> None:
        self.run, self.loader, self.train_step, self.observers = run, loader, train_step, observers
        self.log_iter, self.accumulate = log_iter, accumulate
        self._window = LossWindow(run.state, run.folder, run.max_nonfinite_steps)
        self._step_time, self._data_time = SmoothedValue(log_iter), SmoothedValue(log_iter)
        self._lr = 0.0
        self._reminder = Reminder()

    def __call__(self) -> None:
        """Train to the end.

        Raises:
            AgreedStop: the user asked to stop; a checkpoint has been written.
            UserError: a loss is not finite, or too many images are broken.
        """
        run = self.run
        for observer in self.observers:
            observer.on_train_begin(run)
        run.parts.model.train()
        with closing(self.loader), StopRequest() as stop:
            while run.state.epoch < run.epochs:
                self._epoch(stop)
                run.state.epoch, run.state.iteration = run.state.epoch + 1, 0
                note_progress(f"ends epoch {run.state.epoch}")
                for observer in self.observers:
                    observer.on_epoch_end(run)
                if run.state.epoch < run.epochs and stop.agreed(run.state.step, self.log_iter, always=True):
                    self._leave(saved=run.state.epoch % run.snapshot_epoch == 0)

    def _epoch(self, stop: StopRequest) -> None:
        """Train the rest of the current epoch."""
        state = self.run.state
        mark = time.perf_counter()
        for batches in self._batches():
            note_progress(f"computes step {state.step + 1}")
            seed_step(state.seed, state.step + 1)
            waited = time.perf_counter() - mark
            self._lr = float(self.run.parts.optimizer.get_lr())
            losses = self.train_step(batches)
            state.iteration, state.step = state.iteration + 1, state.step + 1
            self._window.add(losses, state, batches)
            regular = state.step % self.log_iter == 0 or state.iteration == state.steps_per_epoch
            losses_now: dict[str, float] = {}
            if regular:
                losses_now = (
                    self._window.read()
                )  # waits for the device, so that the time below is that of finished steps
            elif is_main() and self._reminder.due():  # other ranks print nothing
                losses_now = self._window.means()
            self._data_time.update(waited)
            self._step_time.update(time.perf_counter() - mark)
            if losses_now:
                self._report(losses_now, early=not regular)
                self._reminder.reset()
            if state.iteration < state.steps_per_epoch:
                if self.run.snapshot_iter and state.step % self.run.snapshot_iter == 0:
                    self._snapshot()
                if stop.agreed(state.step, self.log_iter):
                    self._leave(saved=False)
            mark = time.perf_counter()

    def _batches(self) -> Iterator[list[Mapping[str, Any]]]:
        """Yield the batches of each remaining step of the epoch."""
        state = self.run.state
        self.loader.set_epoch(state.epoch, state.iteration * self.accumulate)
        batches = iter(self.loader)
        for _ in range(state.iteration, state.steps_per_epoch):
            note_progress(f"waits for the images of step {state.step + 1}")
            share = list(islice(batches, self.accumulate))
            if len(share) < self.accumulate:
                raise UserError("the training data ended before the epoch did")
            yield share
            if state.step % AGREE_STEPS == 0 or state.iteration == state.steps_per_epoch:
                self.loader.agree_on_broken(gather_objects)

    def _report(self, losses: dict[str, float], early: bool) -> None:
        run, state = self.run, self.run.state
        left = run.epochs * state.steps_per_epoch - state.step
        images = self.loader.batch_size * self.accumulate * world_size()
        report = Report(
            losses=losses,
            lr=self._lr,
            step_time=self._step_time.recent,
            data_time=self._data_time.recent,
            images_per_second=images / max(self._step_time.recent, 1e-9),
            eta=left * self._step_time.mean,
            memory=memory_text(),
            early=early,
        )
        for observer in self.observers:
            observer.on_report(run, report)

    def _snapshot(self) -> None:
        """Let the callbacks write a checkpoint in the middle of an epoch."""
        self._window.flush()  # raises if a loss is infinite: such weights are not worth a checkpoint
        note_progress(f"writes a checkpoint after step {self.run.state.step}")
        for observer in self.observers:
            observer.on_snapshot(self.run)

    def _leave(self, saved: bool) -> None:
        """Write a checkpoint, unless this step has one already, and stop.

        Raises:
            AgreedStop: always.
        """
        self._window.flush()  # see _snapshot
        if saved:
            stem = self.run.folder / str(self.run.state.epoch - 1)
            logger.info("stopped %s; resume with: -r %s", self.run.state.place, stem)
        else:
            for observer in self.observers:
                observer.on_interrupt(self.run)
        gather_objects(None)  # wait for rank 0 to write: a launcher kills all processes soon after the first has ended
        raise AgreedStop
