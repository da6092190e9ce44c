"""The callback that writes, evaluates and deletes checkpoints."""

from __future__ import annotations

from pathlib import Path

from ppdet.engine.distributed.env import is_main
from ppdet.engine.training.callbacks import Callback, main_ap, main_ap_name
from ppdet.engine.training.checkpoint import RunState, remove_checkpoint, save_checkpoint, update_state
from ppdet.engine.training.run import Run
from ppdet.engine.training.run_folder import epoch_checkpoints, halfway_stems
from ppdet.utils.logger import setup_logger

__all__ = ["Checkpointer"]

logger = setup_logger(__name__)


class Checkpointer(Callback):
    """Saves checkpoints, evaluates them if the run has an evaluation, and keeps the best weights.

    The names follow PaddleDetection and count from 0: ``0`` after the first epoch, ``1`` after the second, …,
    ``model_final`` after the last one; ``<epoch>_<iteration>`` in the middle of an epoch, which is deleted as soon as a
    later checkpoint is complete. ``best_model`` holds the weights with the best mask AP (box AP without masks); no
    training can be resumed from it.
    """

    def __init__(self) -> None:
        self._halfway: list[Path] = []
        self._last: Path | None = None
        self._ap_name = "AP"

    def on_train_begin(self, run: Run) -> None:
        """Run the evaluation that an interrupted run did not finish, so that the best AP does not depend on it."""
        self._halfway = halfway_stems(run.folder)
        if is_main() and run.resumed is not None:
            self._remove_before(run.state)
        if run.state.eval_due and run.evaluate is not None:
            self._last = run.resumed
            self._evaluate(run, run.resumed)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        state = run.state
        done = state.epoch - 1
        final = state.epoch >= run.epochs
        if not final and state.epoch % run.snapshot_epoch:
            return
        stem = run.folder / ("model_final" if final else str(done))
        # Save before the evaluation, in which a crash would otherwise cost the epoch.
        state.eval_due = run.evaluate is not None
        if is_main():
            self._save(stem, run)
            if not final:
                self._remove_old(done, run)
        if run.evaluate is not None:
            self._evaluate(run, stem)

    def _evaluate(self, run: Run, stem: Path | None) -> None:
        """Evaluate, record the AP in the checkpoint ``stem``, and keep the weights if they are the best so far."""
        assert run.evaluate is not None
        try:
            results = run.evaluate()
        except KeyboardInterrupt:
            logger.info("stopped in the evaluation; resuming with -r repeats it")
            raise
        run.state.eval_due = False
        value = main_ap(results)
        better = value > run.state.best_ap
        run.state.best_ap = max(value, run.state.best_ap)
        if is_main():
            if better:
                stem_of_best = run.folder / "best_model"
                save_checkpoint(stem_of_best, run.parts, run.state, run.save_safetensors, resumable=False)
            if stem is not None:
                update_state(stem, run.state)
        if results:
            self._ap_name = main_ap_name(results)
            logger.info("%s %.3f, best so far %.3f", self._ap_name, value, run.state.best_ap)

    def _save(self, stem: Path, run: Run) -> None:
        """Save a checkpoint, then delete the earlier ones of the middle of an epoch."""
        save_checkpoint(stem, run.parts, run.state, run.save_safetensors)
        self._last = stem
        for old in self._halfway:
            if old != stem:
                remove_checkpoint(old)
        self._halfway = []

    def _remove_old(self, done: int, run: Run) -> None:
        """Delete all epoch checkpoints up to ``done`` except the newest ``max_keep_checkpoints``."""
        if run.max_keep_checkpoints is None:
            return
        for epoch in [epoch for epoch in epoch_checkpoints(run.folder) if epoch <= done][: -run.max_keep_checkpoints]:
            remove_checkpoint(run.folder / str(epoch))

    def farewell(self, run: Run) -> None:
        """Log where the weights of the completed training are."""
        best = f", {self._ap_name} {run.state.best_ap:.3f}" if run.state.best_ap >= 0 else ""
        if self._last is not None:
            logger.info("training is complete after %d epochs: %s.pdparams", run.state.epoch, self._last)
        if best and Path(run.folder / "best_model.pdparams").is_file():
            logger.info("best weights: %s.pdparams%s", run.folder / "best_model", best)

    def _remove_before(self, state: RunState) -> None:
        """Delete mid-epoch checkpoints before ``state``; a killed process may have left them."""
        for stem in list(self._halfway):
            epoch, iteration = stem.name.split("_")
            if (int(epoch), int(iteration)) < (state.epoch, state.iteration):
                remove_checkpoint(stem)
                self._halfway.remove(stem)

    def on_snapshot(self, run: Run) -> None:
        """See `Callback`."""
        if is_main():
            stem = _halfway_stem(run)
            self._save(stem, run)
            self._halfway = [stem]

    def on_interrupt(self, run: Run) -> None:
        """See `Callback`."""
        self.on_snapshot(run)
        logger.info("stopped %s; resume with: -r %s", run.state.place, _halfway_stem(run))


def _halfway_stem(run: Run) -> Path:
    """Return the path, without extension, of a checkpoint at the present step of the epoch."""
    return run.folder / f"{run.state.epoch}_{run.state.iteration}"
