"""Converting and comparing checkpoint files; `ppdet.checkpoint.convert` has the rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deploy.common.atomic import make_dir
from ppdet.checkpoint.convert import Conversion, compare_states, convert_state, from_official, is_official
from ppdet.checkpoint.weight_files import find_weights, read_state, read_weights, write_state
from ppdet.checkpoint.weights import believed_classes
from ppdet.core.config.node import ConfigDict
from ppdet.core.workspace import create
from ppdet.engine.distributed.env import select_device
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["check_files", "convert_file"]

logger = setup_logger(__name__)


def convert_file(config: ConfigDict, source: str | Path, target: str | Path) -> Conversion:
    """Convert a checkpoint file for a configuration's model.

    Args:
        config: the configuration, already in force.
        source: file of another implementation.
        target: where to write, with or without ``.pdparams``; both it and the ``.safetensors`` twin are written.

    Returns:
        What became of each tensor.

    Raises:
        UserError: the source cannot be read or does not fit the model, or the target cannot be written. Nothing is
            written before everything is known to fit.
    """
    select_device(config)
    content = read_weights(source)
    state = content.arrays
    logger.info("%s: %d tensors", source, len(state))
    try:
        result = convert_state(create(config.architecture), state)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    _report(result)
    stem = Path(target).expanduser()
    stem = stem.with_suffix("") if stem.suffix in (".pdparams", ".safetensors") else stem
    make_dir(stem.parent)
    write_state(result.arrays, stem, believed_classes(content.path, content.categories, result.arrays))
    logger.info("%d tensors converted, %d left", len(result.sources), len(result.left))
    logger.info("wrote %d tensors to %s.pdparams and .safetensors", len(result.arrays), stem)
    return result


def _report(result: Conversion) -> None:
    """Log the source tensors that were not converted, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in result.left.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        logger.info("not converted (%s): %s", reason, ", ".join(names))


def _comparable(path: str) -> Mapping[str, np.ndarray]:
    state = read_state(path)
    return from_official(state).arrays if is_official(state) else state


def check_files(first: str, second: str, tolerance: float = 0.0) -> None:
    """Compare two checkpoints tensor by tensor; official names count as the names they are converted to.

    Args:
        first: a file.
        second: another one.
        tolerance: largest absolute difference that still counts as equal.

    Raises:
        UserError: they differ; the log names every tensor that does, the error the first of them.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UserError(f"--tolerance is {tolerance}, expected a number of at least 0")
    one, other = _comparable(first), _comparable(second)
    faults = compare_states(one, other, tolerance)
    for fault in faults:
        logger.error("%s", fault)
    if faults:
        files = f"{find_weights(first)} and {find_weights(second)}"
        raise UserError(f"{files} differ in {len(faults)} tensors: {faults[0]}")
    logger.info("%d tensors are equal%s", len(one), f" to {tolerance:g}" if tolerance else "")
