"""Filling a model from a weight file by name and shape.

The names may be this project's or, renamed on the way, another implementation's (`ppdet.engine.convert`). Nothing is
skipped silently: a tensor the file lacks or has in another shape is an error that names it. Two exceptions exist when
training starts from other weights (``pretrain_weights``): a file that holds a backbone only, and layers whose size is
the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paddle.nn import Layer

from ppdet.engine.convert import fit_model, from_other, is_official
from ppdet.engine.weight_files import array_fingerprint, find_weights, read_state, write_state
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "Match",
    "array_fingerprint",
    "fill_weights",
    "find_weights",
    "load_pretrained",
    "load_weights",
    "match_state",
    "read_state",
    "state_arrays",
    "write_state",
]

logger = setup_logger(__name__)

BACKBONE = "backbone."
LISTED = 6
"""An error message names this many tensors; the log names all of them."""


@dataclass
class Match:
    """What a file has for a model.

    Attributes:
        found: model names with the file's array, shapes equal.
        missing: model names that the file lacks.
        reshaped: model names with (shape in the model, shape in the file).
        unused: names in the file that the model has no tensor for.
    """

    found: dict[str, np.ndarray] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def state_arrays(model: Layer) -> dict[str, np.ndarray]:
    """Copy a model's parameters and buffers to the host, half precision as float32."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        if str(tensor.dtype).rsplit(".", 1)[-1] in ("float16", "bfloat16"):
            tensor = tensor.astype("float32")
        arrays[name] = np.array(tensor.numpy(), copy=True)
    return arrays


def match_state(model: Layer, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Match:
    """Compare a model's tensors with a file's, ``prefix`` put before each name of the file."""
    match = Match()
    named = {prefix + name: array for name, array in arrays.items()}
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        shape = tuple(int(side) for side in tensor.shape)
        if name not in named:
            match.missing.append(name)
        elif named[name].shape != shape and not (named[name].size == 1 and shape in ((), (1,))):
            match.reshaped[name] = (shape, named[name].shape)
        else:
            match.found[name] = named[name].reshape(shape)
    match.unused = [name[len(prefix) :] for name in named if name not in tensors]
    return match


def fill_weights(model: Layer, found: Mapping[str, np.ndarray]) -> None:
    """Write arrays into the model's tensors, in the model's element type."""
    tensors = model.state_dict()
    for name, array in found.items():
        tensor = tensors[name]
        kind = str(tensor.dtype).rsplit(".", 1)[-1]
        if array.dtype == np.uint16 and kind in ("float32", "float16", "bfloat16"):
            # Paddle keeps bfloat16 as the upper halves of float32 words.
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if kind == "bfloat16":
            array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        tensor.set_value(np.ascontiguousarray(array, dtype=np.uint16 if kind == "bfloat16" else kind))


def _names(names: Iterable[str]) -> str:
    """Join names for a message, the first few of many."""
    listed = list(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def _shapes(reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> list[str]:
    return [f"{name} {list(theirs)} instead of {list(ours)}" for name, (ours, theirs) in reshaped.items()]


def _require_whole(file: Path, missing: list[str], reshaped: Mapping[str, Any], advice: str) -> None:
    """Raise where the file leaves tensors of the model unfilled; the log gets every name, the error the first few.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    faults = []
    if missing:
        logger.error("%s lacks: %s", file, ", ".join(missing))
        faults.append(f"lacks {_names(missing)}")
    if reshaped:
        shapes = _shapes(reshaped)
        logger.error("%s has in another shape: %s", file, ", ".join(shapes))
        faults.append(f"has {_names(shapes)}")
    if faults:
        raise UserError(f"{file} does not fit the model: it {'; it '.join(faults)}; {advice}")


def _own_names(model: Layer, file: Path, arrays: dict[str, np.ndarray], whole: bool) -> dict[str, np.ndarray]:
    """Rename the tensors of other implementations' checkpoints; those of this project's stay as they are.

    Args:
        model: what the weights are for.
        file: where they come from.
        arrays: as read.
        whole: every tensor of the model has to be there.

    Raises:
        UserError: a foreign checkpoint does not fit the model.
    """
    try:
        result = from_other(model, arrays)
        if result is None:
            return arrays
        if is_official(arrays):
            logger.info("%s has PyTorch's names: converted in memory (tools/convert_weights.py keeps the result)", file)
        else:
            logger.info("%s is the 2021 Paddle reproduction's: names mapped, deltas of stage 3 rescaled", file)
        if whole:
            result = fit_model(model, result)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    left = [name for name in result.left if not name.endswith("num_batches_tracked")]
    if left:
        logger.info("not used from %s: %s", file, ", ".join(left))
    return result.arrays


def load_weights(model: Layer, path: str | Path) -> dict[str, np.ndarray]:
    """Fill every tensor of ``model`` from a file of this model, for evaluation, prediction and resuming.

    Args:
        model: filled in place.
        path: with or without extension.

    Returns:
        The file's arrays by name.

    Raises:
        UserError: the file is missing or unreadable, lacks a tensor, or has one in another shape.
    """
    file = find_weights(path)
    arrays = _own_names(model, file, read_state(file), whole=True)
    match = match_state(model, arrays)
    _require_whole(file, match.missing, match.reshaped, "use the configuration that the weights were trained with")
    if match.unused:
        logger.warning("%s: not used by this model: %s", file, ", ".join(match.unused))
    fill_weights(model, match.found)
    logger.info("loaded %d tensors from %s", len(match.found), file)
    return arrays


def _old_class_count(ours: tuple[int, ...], theirs: tuple[int, ...], class_counts: Iterable[int]) -> int | None:
    """Return the class count that makes a layer's shape in the file explicable, or None.

    Layers grow with the number of classes K in one dimension, by K, K + 1 (background), 4 K or 4 (K + 1) (boxes).
    """
    if len(ours) != len(theirs):
        return None
    differing = [(a, b) for a, b in zip(ours, theirs) if a != b]
    if len(differing) != 1:
        return None
    here, there = differing[0]
    for count in class_counts:
        for factor, background in ((1, 0), (1, 1), (4, 0), (4, 1)):
            if here == factor * (count + background) and there % factor == 0 and there // factor > background:
                return there // factor - background
    return None


def load_pretrained(model: Layer, path: str | Path, class_counts: Iterable[int] = ()) -> None:
    """Fill ``model`` from weights that training shall start from.

    Two kinds of files fit: a backbone (its names with or without ``backbone.``; all of the model's backbone has to be
    there, everything else stays as initialised) and a whole model, of which layers sized by the number of classes may
    differ and then stay as initialised. The log says what was not loaded.

    Args:
        model: filled in place.
        path: with or without extension.
        class_counts: the class counts of this model (things, stuff).

    Raises:
        UserError: the file is missing or unreadable, or a tensor that has to be there is missing or differs.
    """
    file = find_weights(path)
    arrays = _own_names(model, file, read_state(file), whole=False)
    match = match_state(model, arrays)
    if not any(name.startswith(BACKBONE) for name in arrays):
        prefixed = match_state(model, arrays, BACKBONE)
        if len(prefixed.found) + len(prefixed.reshaped) > len(match.found) + len(match.reshaped):
            match = prefixed
    touched = [*match.found, *match.reshaped]
    if not touched:
        raise UserError(f"{file} has no tensor of this model; its first is '{next(iter(arrays))}'; is it a ResNet?")
    missing, reshaped = match.missing, dict(match.reshaped)
    backbone_only = all(name.startswith(BACKBONE) for name in touched) and len(touched) < len(model.state_dict())
    if backbone_only:
        missing = [name for name in missing if name.startswith(BACKBONE)]
    counts = tuple(class_counts)
    skipped = {name: pair for name, pair in reshaped.items() if _old_class_count(*pair, counts) is not None}
    left = {name: pair for name, pair in reshaped.items() if name not in skipped}
    _require_whole(file, missing, left, "pretrain_weights must be this model's backbone or the whole model")
    fill_weights(model, match.found)
    logger.info("loaded %d tensors from %s%s", len(match.found), file, " (the backbone)" if backbone_only else "")
    if skipped:
        logger.warning("another number of classes, left as initialised: %s", ", ".join(_shapes(skipped)))
    if match.unused:
        logger.info("not used from %s: %s", file, ", ".join(match.unused))
