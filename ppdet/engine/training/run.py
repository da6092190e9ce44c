"""A training under way, as the loop and the callbacks see it."""

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
    """A training under way, as callbacks see it.

    Attributes:
        folder: where everything of this run is written.
        parts: what training changes.
        state: where it stands.
        epochs: number of epochs in all.
        snapshot_epoch: a checkpoint every so many epochs.
        snapshot_iter: a checkpoint every so many steps within an epoch; 0: none.
        max_nonfinite_steps: so many steps whose loss or gradient is not finite are left out before training stops.
        max_keep_checkpoints: so many checkpoints of epochs are kept, the newest; None: all.
        save_safetensors: write the ``.safetensors`` twin of the weights.
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
    max_keep_checkpoints: int | None = None
    save_safetensors: bool = True
    resumed: Path | None = None
    evaluate: Callable[[], ApTable] | None = None
