"""Callbacks of the training loop, and the log line.

The training loop decides when something happens, a callback what to do then. Only rank 0 writes files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ppdet.engine.training.run import ApTable, Run
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import format_duration

__all__ = [
    "AP_NAMES",
    "Callback",
    "LogPrinter",
    "Report",
    "log_line",
    "loss_groups",
    "main_ap",
    "main_ap_name",
]

logger = setup_logger(__name__)

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Report:
    """The numbers of one log line.

    Attributes:
        losses: means since the last line.
        lr: learning rate of the last step.
        step_time: seconds per step.
        data_time: seconds of them that were spent waiting for data.
        images_per_second: over all ranks.
        eta: seconds until the end of the training, without evaluations.
        memory: see `ppdet.engine.device.memory_text`.
        early: a report between two multiples of ``log_iter``; the next report includes its steps again.
    """

    losses: dict[str, float]
    lr: float
    step_time: float
    data_time: float
    images_per_second: float
    eta: float
    memory: str
    early: bool = False


class Callback:
    """Base class whose methods do nothing; subclasses override those they need."""

    def on_train_begin(self, run: Run) -> None:
        """Training is about to start or to be resumed."""

    def on_report(self, run: Run, report: Report) -> None:
        """``log_iter`` steps or an epoch are done; also after the first step and every minute (``report.early``)."""

    def on_evaluation(self, run: Run, results: ApTable) -> None:
        """An evaluation has finished."""

    def on_epoch_end(self, run: Run) -> None:
        """An epoch is done; ``run.state`` is already at the beginning of the next one."""

    def on_snapshot(self, run: Run) -> None:
        """``snapshot_iter`` steps are done in the middle of an epoch; ``run.state`` is at the next step."""

    def on_interrupt(self, run: Run) -> None:
        """The training was asked to stop in the middle of an epoch; ``run.state`` is at the next step."""


def main_ap(results: ApTable) -> float:
    """Return the AP that selects the best weights: mask AP, box AP for a model without masks, -1 without results."""
    for kind in ("mask", "bbox"):
        if results.get(kind):
            return float(results[kind][0])
    return -1.0


def main_ap_name(results: ApTable) -> str:
    """Return the name of what `main_ap` returns."""
    return "mask AP" if results.get("mask") else "box AP"


_SHORT = {"bbox": "box"}


def loss_groups(losses: Mapping[str, float]) -> dict[str, float]:
    """Sum the losses of each part of the model: ``rpn``, ``box``, ``mask``, ``semantic``.

    ``loss_bbox_reg_stage1``, for example, belongs to ``box``; the total ``loss`` belongs to no group.
    """
    groups: dict[str, float] = {}
    for name, value in losses.items():
        if name.startswith("loss_"):
            part = name.split("_")[1]
            part = _SHORT.get(part, part)
            groups[part] = groups.get(part, 0.0) + value
    return groups


def log_line(run: Run, report: Report) -> str:
    """Return the log line of a report, about 140 characters with its time stamp; the CSV file has more numbers.

    ``waiting for data`` is part of it if that takes more than a tenth of the time.
    """
    state = run.state
    epoch = f"{state.epoch + 1:{len(str(run.epochs))}}/{run.epochs}"
    step = f"{state.iteration:{len(str(state.steps_per_epoch))}}/{state.steps_per_epoch}"
    parts = " ".join(f"{name} {value:.3f}" for name, value in loss_groups(report.losses).items())
    share = report.data_time / report.step_time if report.step_time > 0 else 0.0
    waiting = f" waiting for data {share:.0%}" if share > 0.1 else ""
    speed = report.images_per_second
    return (
        f"Epoch {epoch} [{step}] loss {report.losses.get('loss', math.nan):.3f}{f' ({parts})' if parts else ''} "
        f"lr {report.lr:.3g} {speed:{'.1f' if speed >= 1 else '.3f'}} img/s eta {format_duration(report.eta)} "
        f"{report.memory}{waiting}"
    )


class LogPrinter(Callback):
    """Logs a line for each report."""

    def on_report(self, run: Run, report: Report) -> None:
        """See `Callback`."""
        logger.info("%s", log_line(run, report))
