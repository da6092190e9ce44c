"""What happens beside the optimisation: log lines, scalar files, checkpoints, evaluations.

The training loop knows when something happens, a callback what to do then. Rank 0 alone writes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppdet.engine.checkpoint import RunState, TrainParts, remove_checkpoint, save_checkpoint, update_state
from ppdet.engine.env import is_main
from ppdet.engine.run_folder import halfway_stems
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import ScalarTable, draw_curves, format_duration

__all__ = ["Callback", "Checkpointer", "LogPrinter", "Report", "Run", "ScalarWriter", "VisualDLWriter", "main_ap"]

logger = setup_logger(__name__)

ApTable = dict[str, list[float]]
"""COCO's twelve numbers by ``bbox`` and ``mask``."""

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Report:
    """The numbers of one log line.

    Attributes:
        losses: means since the last line.
        lr: learning rate of the step just done.
        step_time: seconds per step, of which ``data_time`` were spent waiting for data.
        images_per_second: over all ranks.
        eta: seconds until the end of training, evaluations not counted.
        memory: text, see `ppdet.engine.env.memory_text`.
    """

    losses: dict[str, float]
    lr: float
    step_time: float
    data_time: float
    images_per_second: float
    eta: float
    memory: str


@dataclass
class Run:
    """A training under way, as callbacks see it.

    Attributes:
        folder: where everything of this run is written.
        parts: what training changes.
        state: where it stands.
        epochs: number of epochs in all.
        snapshot_epoch: a checkpoint every so many epochs.
        snapshot_iter: a checkpoint every so many steps within an epoch; 0: none.
        max_nonfinite_steps: so many steps whose loss or gradient is not finite are left out before training stops.
        resumed: checkpoint of this folder that the training goes on from (path without extension), or None.
        evaluate: evaluates the present weights, or None without ``--eval``.
    """

    folder: Path
    parts: TrainParts
    state: RunState
    epochs: int
    snapshot_epoch: int = 1
    snapshot_iter: int = 0
    max_nonfinite_steps: int = 0
    resumed: Path | None = None
    evaluate: Callable[[], ApTable] | None = None


class Callback:
    """Does nothing at any of the occasions; subclasses override what concerns them."""

    def on_train_begin(self, run: Run) -> None:
        """Training is about to begin or to go on."""

    def on_report(self, run: Run, report: Report) -> None:
        """Every ``log_iter`` steps and at the end of an epoch."""

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """An evaluation has finished."""

    def on_epoch_end(self, run: Run) -> None:
        """``run.state`` already points at the beginning of the next epoch."""

    def on_snapshot(self, run: Run) -> None:
        """Every ``snapshot_iter`` steps within an epoch; ``run.state`` points at the next step."""

    def on_interrupt(self, run: Run) -> None:
        """The user wants to stop; ``run.state`` points at the next step."""


def main_ap(results: ApTable) -> float:
    """Return the number that chooses the best model: mask AP, box AP for a model without masks, -1 without either."""
    for kind in ("mask", "bbox"):
        if results.get(kind):
            return float(results[kind][0])
    return -1.0


class LogPrinter(Callback):
    """Writes a line for each report."""

    def on_report(self, run: Run, report: Report) -> None:
        """See `Callback`."""
        state = run.state
        width = len(str(state.steps_per_epoch))
        losses = " ".join(f"{name}: {value:.6f}" for name, value in report.losses.items())
        logger.info(
            "Epoch: [%d/%d] [%*d/%d] eta: %s lr: %.6g %s "
            "batch_cost: %.4f s data_cost: %.4f s ips: %.3f images/s mem: %s",
            state.epoch,
            run.epochs,
            width,
            state.iteration,
            state.steps_per_epoch,
            format_duration(report.eta),
            report.lr,
            losses,
            report.step_time,
            report.data_time,
            report.images_per_second,
            report.memory,
        )


class ScalarWriter(Callback):
    """Writes ``train_scalars.csv``, ``eval_scalars.csv`` and ``curves.png``."""

    def __init__(self) -> None:
        self._train: ScalarTable | None = None
        self._eval: ScalarTable | None = None

    def on_train_begin(self, run: Run) -> None:
        """See `Callback`."""
        if is_main() and self._train is None:
            step = run.state.step
            resumed = step > 0
            owed = run.state.eval_due and run.evaluate is not None
            self._train = ScalarTable(run.folder / "train_scalars.csv", step + 1 if resumed else None)
            self._eval = ScalarTable(run.folder / "eval_scalars.csv", step + (not owed) if resumed else None)

    def on_report(self, run: Run, report: Report) -> None:
        """See `Callback`."""
        if self._train is not None:
            values = {
                "epoch": float(run.state.epoch),
                "lr": report.lr,
                **report.losses,
                "batch_cost": report.step_time,
                "data_cost": report.data_time,
                "images_per_second": report.images_per_second,
            }
            self._train.add(run.state.step, values)

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """See `Callback`. An evaluation that a killed run owes comes before ``on_train_begin``."""
        owed = self._train is None
        self.on_train_begin(run)
        if self._eval is not None and results:
            named = {f"{kind}_{name}": value for kind in results for name, value in zip(AP_NAMES, results[kind])}
            self._eval.add(run.state.step, {"epoch": float(run.state.epoch), **named})
        if owed:
            self._draw(run)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        self._draw(run)

    def on_interrupt(self, run: Run) -> None:
        """See `Callback`."""
        self._draw(run)

    def _draw(self, run: Run) -> None:
        if self._train is None or self._eval is None:
            return
        if importlib.util.find_spec("matplotlib") is None:
            if run.state.epoch >= run.epochs:
                logger.info("no curves.png: matplotlib is not installed")
            return
        draw_curves(run.folder / "curves.png", self._train, self._eval)


class VisualDLWriter(Callback):
    """Writes scalars for VisualDL.

    Args:
        log_dir: folder of the records.

    Raises:
        UserError: VisualDL is not installed.
    """

    def __init__(self, log_dir: str | Path) -> None:
        if importlib.util.find_spec("visualdl") is None:
            raise UserError("--use_vdl needs VisualDL: python -m pip install visualdl, or leave --use_vdl out")
        self._writer: Any = None
        self._log_dir = str(log_dir)

    def on_train_begin(self, run: Run) -> None:
        """See `Callback`. Not before: the folder may be in that of an earlier run, which is removed first."""
        if is_main() and self._writer is None:
            from visualdl import LogWriter

            self._writer = LogWriter(self._log_dir)

    def on_report(self, run: Run, report: Report) -> None:
        """See `Callback`."""
        if self._writer is not None:
            for name, value in {"lr": report.lr, **report.losses}.items():
                self._writer.add_scalar(f"train/{name}", value, run.state.step)

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """See `Callback`. An evaluation that a killed run owes comes before ``on_train_begin``."""
        self.on_train_begin(run)
        if self._writer is not None:
            for kind, values in results.items():
                self._writer.add_scalar(f"eval/{kind}_AP", values[0], run.state.step)


class Checkpointer(Callback):
    """Saves checkpoints, evaluates them where asked for, and keeps the best.

    Names as PaddleDetection's: ``0``, ``1``, … for the epoch just done, ``model_final`` for the last one,
    ``best_model`` for the best mask AP; ``<epoch>_<iteration>`` in the middle of an epoch, deleted when a later
    checkpoint is whole.
    """

    def __init__(self) -> None:
        self._halfway: list[Path] = []

    def on_train_begin(self, run: Run) -> None:
        """Finish the evaluation that a killed run owes, so that the best AP is what it would have been."""
        self._halfway = halfway_stems(run.folder)
        if is_main() and run.resumed is not None:
            self._remove_before(run.state)
        if run.state.eval_due and run.evaluate is not None:
            self._evaluate(run, run.resumed)

    def on_epoch_end(self, run: Run) -> None:
        """See `Callback`."""
        state = run.state
        done = state.epoch - 1
        final = state.epoch >= run.epochs
        if not final and state.epoch % run.snapshot_epoch:
            return
        stem = run.folder / ("model_final" if final else str(done))
        # Saved before the evaluation: a crash in there must not cost the epoch.
        state.eval_due = run.evaluate is not None
        if is_main():
            self._save(stem, run)
        if run.evaluate is not None:
            self._evaluate(run, stem)

    def _evaluate(self, run: Run, stem: Path | None) -> None:
        """Evaluate, remember the AP in the checkpoint ``stem``, and keep the weights if they are the best so far."""
        assert run.evaluate is not None
        results = run.evaluate()
        run.state.eval_due = False
        value = main_ap(results)
        better = value > run.state.best_ap
        run.state.best_ap = max(value, run.state.best_ap)
        if is_main():
            if better:
                save_checkpoint(run.folder / "best_model", run.parts, run.state)
            if stem is not None:
                update_state(stem, run.state)
        if results:
            logger.info("AP %.3f, best so far %.3f", value, run.state.best_ap)

    def _save(self, stem: Path, run: Run) -> None:
        """Save a checkpoint, then delete those in the middle of an epoch that came before it."""
        save_checkpoint(stem, run.parts, run.state)
        for old in self._halfway:
            if old != stem:
                remove_checkpoint(old)
        self._halfway = []

    def _remove_before(self, state: RunState) -> None:
        """Delete the half-way checkpoints that a later one has replaced, which a kill may have prevented."""
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
        logger.info("stopped; continue with: -r %s", _halfway_stem(run))


def _halfway_stem(run: Run) -> Path:
    """Checkpoint of the present place in the middle of an epoch, without extension."""
    return run.folder / f"{run.state.epoch}_{run.state.iteration}"
