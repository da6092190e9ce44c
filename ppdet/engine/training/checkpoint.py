"""Checkpoints of a run, from which a training continues bit for bit.

``<tag>.pdparams`` and ``<tag>.safetensors`` hold the weights to evaluate (the averaged ones if EMA is on);
``<tag>.pdopt`` holds everything else: optimizer, schedule, position, best AP, seed, loss scaling, average. The
``.pdopt`` file is written last and contains the fingerprint of the weights that belong to it, so a checkpoint is
complete exactly if its files agree. The best weights have no ``.pdopt`` file, and the ``.safetensors`` file is
optional. Random streams need no state, see `ppdet.engine.random_streams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle.amp import GradScaler
from paddle.nn import Layer
from paddle.optimizer import Optimizer

from deploy.common.atomic import atomic_files, atomic_path
from ppdet.checkpoint.weight_files import dump_state
from ppdet.checkpoint.weights import (
    array_fingerprint,
    read_state,
    state_arrays,
)
from ppdet.engine.training.optimizer_state import optimizer_arrays, scheduler_of
from ppdet.engine.training.run_state import LAYOUT, RunState, read_pdopt, saved_state, write_pdopt
from ppdet.optimizer import ModelEMA
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "RunState",
    "TrainParts",
    "checkpoint_stem",
    "find_resumable",
    "kinds_of",
    "remove_checkpoint",
    "save_checkpoint",
    "update_state",
]

logger = setup_logger(__name__)


@dataclass
class TrainParts:
    """What a training changes, apart from its `RunState`.

    Attributes:
        model: the bare model, without a DataParallel wrapper.
        optimizer: with its scheduler, if it has one.
        ema: average of the weights, or None.
        scaler: loss scaling of mixed precision, or None.
        categories: the classes that are trained; None if the dataset does not name them.
    """

    model: Layer
    optimizer: Optimizer
    ema: ModelEMA | None = None
    scaler: GradScaler | None = None
    categories: Categories | None = None


def save_checkpoint(
    stem: str | Path, parts: TrainParts, state: RunState, twin: bool = True, resumable: bool = True
) -> None:
    """Write ``<stem>.pdparams``, ``<stem>.safetensors`` and ``<stem>.pdopt``.

    No file gets its name before all of them are complete.

    Args:
        stem: path without extension.
        parts: what is trained.
        state: how far the training is.
        twin: write the ``.safetensors`` file.
        resumable: write the ``.pdopt`` file, without which no training can be resumed.

    Raises:
        UserError: a file cannot be written, or a value in it is not finite; earlier checkpoints stay complete.
    """
    raw = state_arrays(parts.model)
    weights = raw if parts.ema is None else _averaged_weights(parts.ema)
    optimizer = optimizer_arrays(parts.model, parts.optimizer)
    for arrays in (raw, weights, optimizer):
        _check_finite(stem, arrays, state)
    written = {".pdparams": True, ".safetensors": twin, ".pdopt": resumable}
    suffixes = [suffix for suffix, write in written.items() if write]
    try:
        with atomic_files([f"{stem}{suffix}" for suffix in suffixes]) as paths:
            files = dict(zip(suffixes, paths))
            dump_state(weights, files[".pdparams"], files.get(".safetensors"), parts.categories)
            if resumable:
                write_pdopt(files[".pdopt"], _pdopt_content(parts, state, raw, array_fingerprint(weights), optimizer))
    except UserError as error:
        raise UserError(f"{error}; earlier checkpoints are whole: make room and continue with -r") from error
    for suffix, write in written.items():
        if not write:  # a file of earlier settings would not belong to these weights
            Path(f"{stem}{suffix}").unlink(missing_ok=True)
    logger.info("saved %s.pdparams (%s)", stem, state.place)


def _averaged_weights(ema: ModelEMA) -> dict[str, np.ndarray]:
    """Copy the averaged weights to the host; floating point ones become float32."""
    return {
        name: np.array(value.astype("float32").numpy() if "float" in str(value.dtype) else value.numpy())
        for name, value in ema.weights().items()
    }


def _pdopt_content(
    parts: TrainParts,
    state: RunState,
    raw: Mapping[str, np.ndarray],
    fingerprint: int,
    optimizer: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return the contents of a ``.pdopt`` file.

    Args:
        parts: what is trained.
        state: how far the training is.
        raw: the weights before averaging.
        fingerprint: of the weights in the ``.pdparams`` file.
        optimizer: tensors of the optimizer.
    """
    scheduler = scheduler_of(parts.optimizer)
    return {
        "layout": LAYOUT,
        "state": asdict(state),
        "last_epoch": state.epoch,
        "fingerprint": fingerprint,
        "kinds": kinds_of(parts),
        "optimizer": optimizer,
        "LR_Scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if parts.scaler is None else parts.scaler.state_dict(),
        "ema": None if parts.ema is None else parts.ema.state_dict(),
        "model": None if parts.ema is None else raw,
    }


def _check_finite(stem: str | Path, arrays: Mapping[str, np.ndarray], state: RunState) -> None:
    """Check that all values are finite before they are saved.

    The losses have been checked by then. With finite losses, however, the gradients of the last step may be infinite,
    or the loss of another process.

    Raises:
        UserError: an array contains an infinity or a NaN.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"training stopped: {name} is not finite ({state.place}), "
                f"so {stem} is not saved; lower LearningRate.base_lr or clip gradients, and continue from an earlier "
                "checkpoint with -r"
            )


def kinds_of(parts: TrainParts) -> dict[str, str]:
    """Return what must stay the same when a run is resumed."""
    return {"architecture": type(parts.model).__name__, "optimizer": type(parts.optimizer).__name__}


def update_state(stem: str | Path, state: RunState) -> None:
    """Replace the state in an existing checkpoint (best AP, evaluation done).

    Raises:
        UserError: the file cannot be read or written.
    """
    file = Path(f"{stem}.pdopt")
    content = read_pdopt(file)
    with atomic_path(file) as temporary:
        write_pdopt(temporary, {**content, "state": asdict(state)})


def remove_checkpoint(stem: str | Path) -> None:
    """Delete the files of a checkpoint, beginning with ``.pdopt``, without which it does not count as complete."""
    for suffix in (".pdopt", ".pdparams", ".safetensors"):
        Path(f"{stem}{suffix}").unlink(missing_ok=True)


def checkpoint_stem(path: str | Path) -> Path:
    """Return a path without the extension of a checkpoint's file, if it has one."""
    path = Path(path).expanduser()
    return path.with_suffix("") if path.suffix in (".pdparams", ".pdopt", ".safetensors") else path


def find_resumable(run_dir: str | Path) -> Path:
    """Return the newest complete checkpoint of a run folder (path without extension), whatever its name.

    The newest checkpoint has the most steps among those written since the training was last started or resumed: a
    training that was resumed from an earlier checkpoint leaves the later ones behind. Modification times do not count,
    because copying changes them. Among equals, the one whose evaluation has not finished is chosen, so that the
    evaluation is run after all.

    Raises:
        UserError: there is none.
    """
    files = sorted(Path(run_dir).glob("[!.]*.pdopt"), key=lambda file: file.stat().st_mtime, reverse=True)
    best: tuple[tuple[float, int, bool], Path] | None = None
    for file in files:
        try:
            content = read_pdopt(file)
            state = saved_state(content)
            age = (state.started, state.step, state.eval_due)
            if best is not None and age <= best[0]:
                continue
            if array_fingerprint(read_state(f"{checkpoint_stem(file)}.pdparams")) != content["fingerprint"]:
                raise UserError(f"{file} does not belong to the weights next to it")
        except UserError as error:
            logger.warning("skipped: %s", error)
            continue
        best = (age, checkpoint_stem(file))
    if best is None:
        raise UserError(
            f"there is no checkpoint to resume from in {run_dir}; name one with -r PATH, or start a new training "
            "without -r (with --overwrite if the folder holds weights)"
        )
    return best[1]
