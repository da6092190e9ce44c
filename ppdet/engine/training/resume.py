"""Loading a checkpoint into a training, which then continues bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle.amp import GradScaler
from paddle.nn import Layer

from ppdet.checkpoint.formats.pickle_limits import brief
from ppdet.checkpoint.weights import array_fingerprint, fill_weights, load_weights, match_state
from ppdet.engine.training.checkpoint import TrainParts, checkpoint_stem, kinds_of
from ppdet.engine.training.optimizer_state import create_accumulators, fill_optimizer
from ppdet.engine.training.run_state import RunState, read_pdopt, saved_state
from ppdet.structures.categories import require_same_classes
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["resume"]

logger = setup_logger(__name__)


def resume(path: str | Path, parts: TrainParts) -> RunState:
    """Load a checkpoint into newly built parts.

    Args:
        path: with or without extension.
        parts: built from the configuration of the run and not yet trained.

    Returns:
        How far the training was.

    Raises:
        UserError: files are missing or damaged, do not belong together, or belong to another configuration.
    """
    stem = checkpoint_stem(path)
    file = Path(f"{stem}.pdopt")
    if not file.is_file():
        if Path(f"{stem}.pdparams").is_file():
            raise UserError(
                f"cannot resume from {stem}: it consists of weights only (no {file.name}); continue from the newest "
                f"checkpoint of the run with -r alone, or start a new training from these weights with "
                f"-o pretrain_weights={stem}"
            )
        raise UserError(f"cannot resume from {stem}: {file} does not exist")
    content = read_pdopt(file)
    _load_weights(stem, file, content, parts)
    fill_optimizer(parts.model, parts.optimizer, content, file)
    _load_scaler(content["scaler"], parts.scaler, file)
    state = saved_state(content)
    logger.info("resumed from %s (%s)", stem, state.place)
    return state


def _load_weights(stem: Path, file: Path, content: Mapping[str, Any], parts: TrainParts) -> None:
    """Load weights and average of a checkpoint.

    Args:
        stem: path of the checkpoint without extension.
        file: its ``.pdopt`` file.
        content: of the file.
        parts: to load into; the optimizer has created its tensors afterwards.

    Raises:
        UserError: the files do not belong together, or to another configuration.
    """
    for what, kind in kinds_of(parts).items():
        saved = content["kinds"].get(what, kind)
        if saved != kind:
            raise UserError(f"{file} belongs to another configuration: its {what} is {saved}, this one has {kind}")
    if content["optimizer"]:
        create_accumulators(parts.optimizer, parts.model)
    weights = load_weights(parts.model, f"{stem}.pdparams")
    require_same_classes(weights.categories, str(weights.path), parts.categories, "the training set")
    if array_fingerprint(weights.arrays) != content["fingerprint"]:
        raise UserError(f"{stem}.pdparams and {file} do not belong together; resume from another checkpoint")
    if (parts.ema is None) != (content["ema"] is None):
        raise UserError(
            f"{file} was trained {'without' if parts.ema else 'with'} use_ema; "
            f"set use_ema={'false' if parts.ema else 'true'}"
        )
    if parts.ema is not None:
        _fill_raw_weights(parts.model, content["model"], file)
        try:
            parts.ema.set_state_dict(content["ema"])
        except UserError as error:
            raise UserError(f"{file}: {error}; it belongs to another configuration") from error


def _load_scaler(saved: Mapping[str, Any] | None, scaler: GradScaler | None, file: Path) -> None:
    """Load the state of the loss scaling; the training continues if only one of file and training has one.

    Raises:
        UserError: the state is damaged.
    """
    if (scaler is None) == bool(saved):
        change = "with loss scaling and continues without" if scaler is None else "without loss scaling"
        logger.warning("%s was trained %s%s", file, change, "" if scaler is None else "; the scaling starts over")
    elif scaler is not None and saved is not None:
        _check_scaler(saved, scaler.state_dict(), file)
        scaler.load_state_dict(saved)


def _fill_raw_weights(model: Layer, arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Load the weights before averaging.

    Raises:
        UserError: they belong to another model.
    """
    match = match_state(model, arrays)
    wrong = [*match.missing, *match.mismatched, *match.unused]
    if wrong:
        raise UserError(
            f"the weight {brief(wrong[0])} is missing in {file} or has a different shape: the file belongs "
            "to another configuration"
        )
    fill_weights(model, match.matched)


def _check_scaler(saved: Mapping[str, Any], own: Mapping[str, Any], file: Path) -> None:
    """Check the state of a loss scaler before it is loaded.

    Args:
        saved: state from the file.
        own: state of the scaler that will load it, with the same names and shapes.
        file: for the message.

    Raises:
        UserError: a value is missing, negative, not finite, or has another shape.
    """
    for name, value in own.items():
        restored: Any = saved.get(name)
        real = (
            isinstance(restored, (bool, int, float, np.ndarray, np.generic))
            and np.asarray(restored).dtype.kind in "biuf"
        )
        if (
            not real
            or np.shape(restored) != np.shape(value)
            or not np.isfinite(restored).all()
            or np.any(np.less(restored, 0))
        ):
            raise UserError(
                f"{file} is damaged or was changed ('{name}' of its loss scaling is {brief(restored)}): resume from "
                "another checkpoint with -r PATH"
            )
