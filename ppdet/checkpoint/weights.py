"""Filling a model from a weight file by name and shape.

The names may be this project's or, renamed on the way, another implementation's (`ppdet.checkpoint.convert`).
Evaluation, prediction and resuming need every tensor: one that the file lacks or has in another shape is an error that
names it. A training that starts from other weights (``pretrain_weights``) needs the whole backbone; of everything else
it takes the layers that fit, and the log says which do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from paddle.nn import Layer

from ppdet.checkpoint.convert import foreign_source
from ppdet.checkpoint.matching import (
    BACKBONE,
    ClassCounts,
    Match,
    Shape,
    apart_from_classes,
    class_layer,
    depth_difference,
    join_names,
    layer_of,
    match_state,
    other_class_count,
    part_counts,
    part_of,
    shape_texts,
    starts_neutral,
)
from ppdet.checkpoint.source import COUNTER_REASON, ignore_reason
from ppdet.checkpoint.weight_files import (
    WeightFile,
    array_fingerprint,
    find_weights,
    read_state,
    read_weights,
    write_state,
)
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "Match",
    "believed_classes",
    "array_fingerprint",
    "believed_classes",
    "fill_weights",
    "find_weights",
    "load_pretrained",
    "load_weights",
    "match_state",
    "read_state",
    "read_weights",
    "state_arrays",
    "write_state",
]

logger = setup_logger(__name__)

LISTED_LAYERS = 12
"""The log names this many layers that are not in a file."""


def state_arrays(model: Layer) -> dict[str, np.ndarray]:
    """Copy a model's parameters and buffers to the host, half precision as float32."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        if str(tensor.dtype).rsplit(".", 1)[-1] in ("float16", "bfloat16"):
            tensor = tensor.astype("float32")
        arrays[name] = np.array(tensor.numpy(), copy=True)
    return arrays


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


def _require_whole(
    file: Path, model: Layer, arrays: Mapping[str, np.ndarray], match: Match, categories: Categories | None
) -> None:
    """Raise where the file leaves tensors of the model unfilled, or has another backbone.

    Raises:
        UserError: a tensor is missing or has another shape, or the file's backbone is a deeper one.
    """
    strangers = _strangers(match)
    if not match.missing and not match.reshaped and not strangers:
        return
    shapes = _shapes(model)
    names = None if categories is None else categories.names
    classes = other_class_count(shapes, {name: array.shape for name, array in arrays.items()}, names)
    reshaped = apart_from_classes(match.reshaped) if classes else match.reshaped
    faults = [classes, depth_difference(shapes, arrays), *_differences(file, match.missing, reshaped, strangers)]
    raise UserError(
        f"{file} does not fit the model: {'; '.join(fault for fault in faults if fault)}; use the configuration that "
        "the weights were trained with"
    )


def _differences(
    file: Path, missing: list[str], reshaped: Mapping[str, tuple[Shape, Shape]], strangers: list[str]
) -> list[str]:
    """Say in what a file differs from a model; the log gets every name, the texts the first few."""
    texts = []
    if missing:
        logger.error("%s lacks: %s", file, ", ".join(missing))
        texts.append(f"it lacks {join_names(missing)}")
    if reshaped:
        shapes = shape_texts(reshaped)
        logger.error("%s has in another shape: %s", file, ", ".join(shapes))
        texts.append(f"it has {join_names(shapes)}")
    if strangers:
        texts.append(f"this model has no {join_names(strangers)}")
    return texts


def _shapes(model: Layer) -> dict[str, Shape]:
    return {name: tuple(int(side) for side in tensor.shape) for name, tensor in model.state_dict().items()}


def _strangers(match: Match) -> list[str]:
    """Tensors of the file's backbone without which it computes something else, and which the model does not have."""
    return [name for name in match.unused if name.startswith(BACKBONE) and ignore_reason(name) is None]


def _with_own_names(model: Layer, file: Path, arrays: dict[str, np.ndarray], whole: bool) -> dict[str, np.ndarray]:
    """Convert the checkpoint of another implementation; return any other as it is.

    Args:
        model: the model that the weights are for.
        file: the file that the arrays come from.
        arrays: the arrays of the file by name.
        whole: the file has to be of exactly this architecture; otherwise a related one is good enough.

    Raises:
        UserError: the checkpoint does not fit the model.
    """
    source = foreign_source(arrays)
    if source is None:
        return arrays
    try:
        result = source.convert(arrays, model, whole)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    logger.info("%s %s", file, source.notice)
    unused = [name for name, reason in result.left.items() if reason != COUNTER_REASON]
    if unused:
        logger.info("not used from %s: %s", file, ", ".join(unused))
    return result.arrays


def load_weights(model: Layer, path: str | Path) -> WeightFile:
    """Fill every tensor of ``model`` from a file of this model, for evaluation, prediction and resuming.

    Args:
        model: filled in place.
        path: with or without extension.

    Returns:
        The file's arrays by this project's names, and the classes that it tells apart.

    Raises:
        UserError: the file is missing or unreadable, lacks a tensor, or has one in another shape.
    """
    content = read_weights(path)
    file = content.path
    arrays = _with_own_names(model, file, content.arrays, whole=True)
    match = match_state(model, arrays)
    _require_whole(content.path, model, arrays, match, content.categories)
    categories = believed_classes(file, content.categories, arrays)
    if match.unused:
        logger.warning("%s: not used by this model: %s", file, _by_part(match.unused))
    fill_weights(model, match.found)
    logger.info("loaded %d tensors from %s", len(match.found), file)
    return WeightFile(file, arrays, categories)


def believed_classes(file: Path, categories: Categories | None, arrays: Mapping[str, np.ndarray]) -> Categories | None:
    """Return a file's classes if there are as many of them as its tensors are for.

    Raises:
        UserError: this project's record says something else than the tensors.
    """
    count = ClassCounts.of({name: array.shape for name, array in arrays.items()}).things
    if categories is None or count is None or count == len(categories):
        return categories
    if file.suffix in (".pth", ".pt"):  # mmdetection writes the names of its data set, whatever the model is for
        logger.warning(
            "%s names %d classes, its tensors are for %d: the names are not used", file, len(categories), count
        )
        return None
    raise UserError(
        f"{file} is damaged: it names {len(categories)} classes, its tensors are for {count}; copy or download it again"
    )


def load_pretrained(model: Layer, path: str | Path, categories: Categories | None = None) -> None:
    """Fill ``model`` from weights that training shall start from: a backbone, this model, or a relative of it.

    The backbone has to be this model's, whole; only the offsets of deformable convolutions may be missing, which start
    at zero and change nothing. Of the other parts those layers are taken which the file has, by name and by the shapes
    of all of their tensors; all others stay as initialised. So do the classifiers where the file's classes are others
    than those to be trained. The log counts what was loaded for each part.

    Args:
        model: filled in place.
        path: with or without extension.
        categories: the classes to be trained, if they are known.

    Raises:
        UserError: the file is missing or unreadable, or does not hold the model's backbone.
    """
    content = read_weights(path)
    file = content.path
    arrays = _with_own_names(model, file, content.arrays, whole=False)
    match = match_state(model, arrays)
    if not any(name.startswith(BACKBONE) for name in arrays):
        prefixed = match_state(model, arrays, BACKBONE)
        if len(prefixed.found) + len(prefixed.reshaped) > len(match.found) + len(match.reshaped):
            match = prefixed
    if not match.found and not match.reshaped:
        raise UserError(f"{file} has no tensor of this model; its first is '{next(iter(arrays))}'; is it a ResNet?")
    _require_backbone(file, model, match)
    unfilled = {layer_of(name) for name in match.unfilled()}
    if categories is not None and content.categories is not None and len(categories) == len(content.categories):
        difference = content.categories.difference(categories, str(file), "the training set")
        if difference:
            logger.warning("the classifiers start as initialised, for the classes differ: %s", difference)
            unfilled |= {layer_of(name) for name, array in match.found.items() if class_layer(name, array.shape)}
    chosen = {name: array for name, array in match.found.items() if layer_of(name) not in unfilled}
    fill_weights(model, chosen)
    _report_start(file, model, match, chosen)


def _require_backbone(file: Path, model: Layer, match: Match) -> None:
    """Raise unless the file holds the model's whole backbone and no deeper one.

    Raises:
        UserError: it does not.
    """
    ours = [name for name in model.state_dict() if name.startswith(BACKBONE) and not starts_neutral(name)]
    missing = [name for name in match.missing if name in set(ours)]
    reshaped = {name: pair for name, pair in match.reshaped.items() if name in set(ours)}
    strangers = [name for name in _strangers(match) if not starts_neutral(name)]
    if not missing and not reshaped and not strangers:
        return
    theirs = [name for name in [*match.found, *match.reshaped, *match.unused] if name.startswith(BACKBONE)]
    fitting = len(ours) - len(missing) - len(reshaped)
    faults = [f"{fitting} of {len(ours)} tensors fit", depth_difference(ours, theirs)]
    faults += _differences(file, missing, reshaped, strangers)
    raise UserError(
        f"{file} does not hold this model's backbone: {'; '.join(fault for fault in faults if fault)}; set "
        "pretrain_weights to weights of the same backbone (ResNet.depth, variant, groups, base_width)"
    )


def _report_start(file: Path, model: Layer, match: Match, chosen: Mapping[str, np.ndarray]) -> None:
    """Log how much of each part comes from the file, what does not, and what of the file nobody uses."""
    wanted, filled = part_counts(model.state_dict()), part_counts(chosen)
    counts = ", ".join(f"{part} {filled[part]} of {total}" for part, total in wanted.items())
    logger.info("loaded %d of %d tensors from %s: %s", len(chosen), sum(wanted.values()), file, counts)
    drawn = [name for name in model.state_dict() if name not in chosen]
    if drawn:
        whole = [part for part in wanted if not filled[part]]
        layers = dict.fromkeys(layer_of(name) for name in drawn if part_of(name) not in whole)
        texts = [*(f"all of {part}" for part in whole), *(layers if len(layers) <= LISTED_LAYERS else ())]
        if len(layers) > LISTED_LAYERS:
            texts.append(f"{join_names(layers)} layers")
        say = logger.info if set(whole) == set(wanted) - {part_of(BACKBONE)} and not layers else logger.warning
        say("not in %s, start as initialised: %s", file, ", ".join(texts))
        others = {name: pair for name, pair in match.reshaped.items() if name.endswith("weight")}
        if others:
            logger.warning("another shape in %s: %s", file, join_names(shape_texts(others)))
    unused = [name for name in match.unused if ignore_reason(name) is None]
    if unused:
        logger.warning("not used from %s: %s", file, _by_part(unused))


def _by_part(names: list[str]) -> str:
    """Such as ``mask_head (24 tensors), semantic (18 tensors)``."""
    return ", ".join(f"{part} ({count} tensors)" for part, count in part_counts(names).items())
