"""The state of a training in progress, as the loop and the callbacks see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ppdet.engine.training.checkpoint import RunState, TrainParts

__all__ = ["ApTable", "Run"]

ApTable = dict[str, list[float]]
"""COCO's twelve numbers under ``bbox`` and ``mask``."""


@dataclass
class Run:
    """A training in progress.

    Attributes:
        folder: where all files of the run are written.
        parts: what the training changes.
        state: how far it is.
        epochs: total number of epochs.
        snapshot_epoch: epochs between two checkpoints.
        snapshot_iter: steps between two checkpoints within an epoch; 0 writes none.
        max_nonfinite_steps: number of steps with an infinite or NaN loss or gradient that are skipped before the
            training stops.
        max_keep_checkpoints: number of epoch checkpoints kept, the newest ones; None keeps all.
        save_safetensors: write a ``.safetensors`` file next to each ``.pdparams`` file.
        resumed: checkpoint of this folder that the training continues from (path without extension), or None.
        evaluate: evaluates the current weights; None without ``--eval``.
    """

    folder: Path
    parts: TrainParts
    state: RunState
    epochs: int
    snapshot_epoch: int = 1
    snapshot_iter: int = 0
    max_nonfinite_steps: int = 0
    max_keep_checkpoints: int | None = None
    save_safetensors: bool = True
    resumed: Path | None = None
    evaluate: Callable[[], ApTable] | None = None
