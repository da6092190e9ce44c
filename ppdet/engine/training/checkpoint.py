"""Checkpoints of a run: enough to continue as if nothing had happened.

``<tag>.pdparams`` and ``<tag>.safetensors`` hold the weights to evaluate (the averaged ones where EMA is on),
``<tag>.pdopt`` everything else: optimizer, schedule, position, best AP, seed, loss scaling, average. The ``.pdopt`` is
written last and knows the fingerprint of the weights it belongs to, so a checkpoint is whole exactly if its files
agree. The best weights have no ``.pdopt``, and the ``.safetensors`` twin is optional. Random streams need no state of
their own: every one is a function of (seed, rank, step), see `ppdet.engine.distributed.env`.
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
from ppdet.checkpoint.formats.pickle_limits import brief
from ppdet.checkpoint.weight_files import dump_state
from ppdet.checkpoint.weights import (
    array_fingerprint,
    fill_weights,
    load_weights,
    match_state,
    read_state,
    state_arrays,
)
from ppdet.engine.training.optimizer_state import create_accumulators, fill_optimizer, optimizer_arrays, scheduler_of
from ppdet.engine.training.run_state import LAYOUT, RunState, read_pdopt, saved_state, write_pdopt
from ppdet.optimizer import ModelEMA
from ppdet.structures.categories import Categories, require_same_classes
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "RunState",
    "TrainParts",
    "checkpoint_stem",
    "find_resumable",
    "remove_checkpoint",
    "resume",
    "save_checkpoint",
    "update_state",
]

logger = setup_logger(__name__)


@dataclass
class TrainParts:
    """What training changes, apart from the position.

    Attributes:
        model: the bare model, not its DataParallel wrapper.
        optimizer: with its scheduler, if it has one.
        ema: average of the weights, or None.
        scaler: loss scaling of mixed precision, or None.
        categories: the classes that are trained, None where the data set does not say.
    """

    model: Layer
    optimizer: Optimizer
    ema: ModelEMA | None = None
    scaler: GradScaler | None = None
    categories: Categories | None = None


def save_checkpoint(
    stem: str | Path, parts: TrainParts, state: RunState, twin: bool = True, resumable: bool = True
) -> None:
    """Write ``<stem>.pdparams``, ``<stem>.safetensors`` and ``<stem>.pdopt``; none gets its name before all are whole.

    Args:
        stem: path without extension.
        parts: what is trained.
        state: where the training stands.
        twin: write the ``.safetensors`` file, too.
        resumable: write the ``.pdopt`` file, too, without which no training goes on.

    Raises:
        UserError: a file cannot be written, or a number in it is not finite; earlier checkpoints stay whole.
    """
    raw = state_arrays(parts.model)
    weights = raw
    if parts.ema is not None:
        weights = {
            name: np.array(value.astype("float32").numpy() if "float" in str(value.dtype) else value.numpy())
            for name, value in parts.ema.weights().items()
        }
    optimizer = optimizer_arrays(parts.model, parts.optimizer)
    for arrays in (raw, weights, optimizer):
        _check_finite(stem, arrays, state)
    scheduler = scheduler_of(parts.optimizer)
    content: dict[str, Any] = {
        "layout": LAYOUT,
        "state": asdict(state),
        "last_epoch": state.epoch,
        "fingerprint": array_fingerprint(weights),
        "kinds": _kinds(parts),
        "optimizer": optimizer,
        "LR_Scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if parts.scaler is None else parts.scaler.state_dict(),
        "ema": None if parts.ema is None else parts.ema.state_dict(),
        "model": None if parts.ema is None else raw,
    }
    wanted = {".pdparams": True, ".safetensors": twin, ".pdopt": resumable}
    suffixes = [suffix for suffix, write in wanted.items() if write]
    try:
        with atomic_files([f"{stem}{suffix}" for suffix in suffixes]) as paths:
            files = dict(zip(suffixes, paths))
            dump_state(weights, files[".pdparams"], files.get(".safetensors"), parts.categories)
            if resumable:
                write_pdopt(files[".pdopt"], content)
    except UserError as error:
        raise UserError(f"{error}; earlier checkpoints are whole: make room and continue with -r") from error
    for suffix, write in wanted.items():
        if not write:  # one written before, under other settings, would not belong to these weights
            Path(f"{stem}{suffix}").unlink(missing_ok=True)
    logger.info("saved %s.pdparams (%s)", stem, state.place)


def _check_finite(stem: str | Path, arrays: Mapping[str, np.ndarray], state: RunState) -> None:
    """Refuse to save what no training can go on from.

    Losses are looked at before, but the last step's gradients may have been infinite with a finite loss, or another
    process's loss may not have been finite.

    Raises:
        UserError: an array has an infinity or a NaN.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"training stopped: {name} is not finite ({state.place}), "
                f"so {stem} is not saved; lower LearningRate.base_lr or clip gradients, and continue from an earlier "
                "checkpoint with -r"
            )


def _kinds(parts: TrainParts) -> dict[str, str]:
    """What a run cannot change on the way."""
    return {"architecture": type(parts.model).__name__, "optimizer": type(parts.optimizer).__name__}


def update_state(stem: str | Path, state: RunState) -> None:
    """Write a new position (best AP, evaluation done) into an existing checkpoint.

    Raises:
        UserError: the file cannot be read or written.
    """
    file = Path(f"{stem}.pdopt")
    content = read_pdopt(file)
    with atomic_path(file) as temporary:
        write_pdopt(temporary, {**content, "state": asdict(state)})


def remove_checkpoint(stem: str | Path) -> None:
    """Delete the three files of a checkpoint, the one that makes it whole first."""
    for suffix in (".pdopt", ".pdparams", ".safetensors"):
        Path(f"{stem}{suffix}").unlink(missing_ok=True)


def checkpoint_stem(path: str | Path) -> Path:
    """Drop a checkpoint extension, if there is one."""
    given = Path(path).expanduser()
    return given.with_suffix("") if given.suffix in (".pdparams", ".pdopt", ".safetensors") else given


def find_resumable(run_dir: str | Path) -> Path:
    """Return the newest whole checkpoint of a run folder (path without extension), whatever its name.

    Newest is the one that has trained longest since the start, or the resumption, that was last: who goes back to an
    earlier checkpoint leaves the later ones behind. Times of files do not count, as they change in copying.
    Among equals it is the one whose evaluation has not finished, so that it will be.

    Raises:
        UserError: there is none.
    """
    found = sorted(Path(run_dir).glob("[!.]*.pdopt"), key=lambda file: file.stat().st_mtime, reverse=True)
    best: tuple[tuple[float, int, bool], Path] | None = None
    for file in found:
        try:
            content = read_pdopt(file)
            state = saved_state(content)
            age = (state.started, state.step, state.eval_due)
            if best is not None and age <= best[0]:
                continue
            if array_fingerprint(read_state(f"{checkpoint_stem(file)}.pdparams")) != content["fingerprint"]:
                raise UserError(f"{file} and the weights beside it are of different moments")
        except UserError as error:
            logger.warning("passed over: %s", error)
            continue
        best = (age, checkpoint_stem(file))
    if best is None:
        raise UserError(
            f"no checkpoint to resume from in {run_dir}; name one with -r PATH, or start anew without -r "
            "(with --overwrite where the folder holds weights)"
        )
    return best[1]


def resume(path: str | Path, parts: TrainParts) -> RunState:
    """Put a checkpoint back into freshly built parts.

    Args:
        path: with or without extension.
        parts: model, optimizer and so on, built from the run's configuration and not yet trained.

    Returns:
        Where the training stood.

    Raises:
        UserError: files are missing, damaged, of different moments, or of another configuration.
    """
    stem = checkpoint_stem(path)
    file = Path(f"{stem}.pdopt")
    if not file.is_file():
        if Path(f"{stem}.pdparams").is_file():
            raise UserError(
                f"cannot resume from {stem}: it has weights alone (no {file.name}); go on from the newest checkpoint "
                f"of the run with -r alone, or start a new training from these with -o pretrain_weights={stem}"
            )
        raise UserError(f"cannot resume from {stem}: {file} does not exist")
    content = read_pdopt(file)
    for what, kind in _kinds(parts).items():
        saved = content["kinds"].get(what, kind)
        if saved != kind:
            raise UserError(f"{file} is of another configuration: its {what} is {saved}, here it is {kind}")
    if content["optimizer"]:
        create_accumulators(parts.optimizer, parts.model)
    weights = load_weights(parts.model, f"{stem}.pdparams")
    require_same_classes(weights.categories, str(weights.path), parts.categories, "the training set")
    if array_fingerprint(weights.arrays) != content["fingerprint"]:
        raise UserError(f"{stem}.pdparams and {file} are of different moments; resume from another checkpoint")
    if (parts.ema is None) != (content["ema"] is None):
        raise UserError(f"{file} was trained {'without' if parts.ema else 'with'} use_ema; set use_ema as it was")
    if parts.ema is not None:
        _fill_raw_weights(parts.model, content["model"], file)
        try:
            parts.ema.set_state_dict(content["ema"])
        except UserError as error:
            raise UserError(f"{file}: {error}; it belongs to another configuration") from error
    fill_optimizer(parts.model, parts.optimizer, content, file)
    if (parts.scaler is None) == bool(content["scaler"]):
        change = "with loss scaling, it goes on without" if parts.scaler is None else "without loss scaling"
        logger.warning("%s was trained %s%s", file, change, "" if parts.scaler is None else ", which begins anew")
    elif parts.scaler is not None:
        _check_scaler(content["scaler"], parts.scaler.state_dict(), file)
        parts.scaler.load_state_dict(content["scaler"])
    state = saved_state(content)
    logger.info("resumed from %s (%s)", stem, state.place)
    return state


def _fill_raw_weights(model: Layer, arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Put back the weights that the average is of.

    Raises:
        UserError: they are another model's.
    """
    match = match_state(model, arrays)
    wrong = [*match.missing, *match.mismatched, *match.unused]
    if wrong:
        raise UserError(
            f"{file} lacks the weight {brief(wrong[0])} or has it in another shape: it belongs to another configuration"
        )
    fill_weights(model, match.matched)


def _check_scaler(saved: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> None:
    """Compare the state of a loss scaling with that of the one that goes on.

    Raises:
        UserError: a value is missing, of another shape, not finite or negative.
    """
    for name, value in own.items():
        given: Any = saved.get(name)
        real = isinstance(given, (bool, int, float, np.ndarray, np.generic)) and np.asarray(given).dtype.kind in "biuf"
        if not real or np.shape(given) != np.shape(value) or not np.isfinite(given).all() or np.any(np.less(given, 0)):
            raise UserError(
                f"{file} is damaged or was changed ('{name}' of its loss scaling is {brief(given)}): resume from "
                "another checkpoint with -r PATH"
            )
