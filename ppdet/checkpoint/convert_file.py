"""Converting and comparing checkpoint files, see `ppdet.checkpoint.convert`."""

from __future__ import annotations

import math
from pathlib import Path

from deploy.common.atomic import make_dir
from ppdet.checkpoint.convert import Conversion, compare_states, convert_state, with_own_names
from ppdet.checkpoint.weight_files import find_weights, read_state, read_weights, write_state
from ppdet.checkpoint.weights import believed_classes
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create
from ppdet.engine.runtime import Runtime
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["check_files", "convert_file"]

logger = setup_logger(__name__)


def convert_file(config: Config, source: str | Path, target: str | Path) -> Conversion:
    """Convert a checkpoint file for a configuration's model.

    Args:
        config: the configuration of the model that the checkpoint is converted for.
        source: checkpoint of another implementation.
        target: path of the result, with or without ``.pdparams``; a ``.safetensors`` file is written as well.

    Returns:
        What became of each tensor.

    Raises:
        UserError: the source cannot be read or does not fit the model, or the target cannot be written. Nothing is
            written unless everything fits.
    """
    content = read_weights(source)
    state = content.arrays
    logger.info("%s: %d tensors", source, len(state))
    try:
        with Runtime(RuntimeSettings.from_config(config)):
            result = convert_state(create(config, config.architecture), state)
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
    """Log the tensors that were not converted, grouped by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in result.left.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        logger.info("not converted (%s): %s", reason, ", ".join(names))


def check_files(first: str, second: str, tolerance: float = 0.0) -> None:
    """Compare two checkpoints tensor by tensor; names of other implementations count as the names they convert to.

    Args:
        first: path of a weight file.
        second: path of another one.
        tolerance: largest absolute difference that counts as equal.

    Raises:
        UserError: the checkpoints differ; the log names every tensor that does, the error the first of them.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UserError(f"--tolerance is {tolerance}, expected a number of at least 0")
    first_state, second_state = with_own_names(read_state(first)), with_own_names(read_state(second))
    differences = compare_states(first_state, second_state, tolerance)
    for difference in differences:
        logger.error("%s", difference)
    if differences:
        files = f"{find_weights(first)} and {find_weights(second)}"
        raise UserError(f"{files} differ in {len(differences)} tensors: {differences[0]}")
    logger.info("%d tensors are equal%s", len(first_state), f" to {tolerance:g}" if tolerance else "")
