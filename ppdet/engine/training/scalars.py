"""Callbacks that write the scalars of a training: CSV tables, a plot of the curves, VisualDL."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ppdet.engine.distributed.env import is_main
from ppdet.engine.training.callbacks import AP_NAMES, Callback, Report
from ppdet.engine.training.run import ApTable, Run
from ppdet.utils.curves import draw_curves
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import ScalarTable

__all__ = ["ScalarWriter", "VisualDLWriter"]

logger = setup_logger(__name__)


class ScalarWriter(Callback):
    """Writes ``train_scalars.csv``, ``eval_scalars.csv`` and ``curves.png``; epochs count from 1."""

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
        if self._train is not None and not report.early:
            values = {
                "epoch": run.state.epoch + 1.0,
                "lr": report.lr,
                **report.losses,
                "batch_cost": report.step_time,
                "data_cost": report.data_time,
                "images_per_second": report.images_per_second,
            }
            self._train.add(run.state.step, values)

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """See `Callback`. When a run is resumed, a pending evaluation runs before ``on_train_begin``."""
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
        """See `Callback`. The writer is not created earlier: the folder may be in that of a run to be overwritten."""
        if is_main() and self._writer is None:
            from visualdl import LogWriter

            self._writer = LogWriter(self._log_dir)

    def on_report(self, run: Run, report: Report) -> None:
        """See `Callback`."""
        if self._writer is not None and not report.early:
            for name, value in {"lr": report.lr, **report.losses}.items():
                self._writer.add_scalar(f"train/{name}", value, run.state.step)

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """See `Callback`. When a run is resumed, a pending evaluation runs before ``on_train_begin``."""
        self.on_train_begin(run)
        if self._writer is not None:
            for kind, values in results.items():
                self._writer.add_scalar(f"eval/{kind}_AP", values[0], run.state.step)
