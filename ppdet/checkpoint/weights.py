"""Loading a weight file into a model by the names and shapes of its tensors.

Checkpoints of other implementations are converted while they are loaded (`ppdet.checkpoint.convert`). Evaluation,
prediction and resuming require every tensor of the model; a tensor that the file lacks or that has another shape is an
error. A training that starts from other weights (``pretrain_weights``) requires the complete backbone. From the rest of
the file it uses the layers that fit, and the log lists those that do not.
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
"""Number of layers missing in a file that the log lists."""


def state_arrays(model: Layer) -> dict[str, np.ndarray]:
    """Copy the parameters and buffers of a model to the host; half precision is converted to float32."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        if str(tensor.dtype).rsplit(".", 1)[-1] in ("float16", "bfloat16"):
            tensor = tensor.astype("float32")
        arrays[name] = np.array(tensor.numpy(), copy=True)
    return arrays


def fill_weights(model: Layer, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into the tensors of a model, converted to the element types of the model."""
    tensors = model.state_dict()
    for name, array in arrays.items():
        tensor = tensors[name]
        kind = str(tensor.dtype).rsplit(".", 1)[-1]
        if array.dtype == np.uint16 and kind in ("float32", "float16", "bfloat16"):
            # Paddle stores bfloat16 as the upper halves of float32 words.
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if kind == "bfloat16":
            array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        tensor.set_value(np.ascontiguousarray(array, dtype=np.uint16 if kind == "bfloat16" else kind))


def _require_whole(
    file: Path, model: Layer, arrays: Mapping[str, np.ndarray], match: Match, categories: Categories | None
) -> None:
    """Check that the file fills the whole model and that its backbone is not deeper.

    Raises:
        UserError: a tensor is missing or has another shape, or the backbone of the file is deeper.
    """
    surplus = _surplus_of_backbone(match)
    if not match.missing and not match.mismatched and not surplus:
        return
    shapes = _shapes(model)
    names = None if categories is None else categories.names
    classes = other_class_count(shapes, {name: array.shape for name, array in arrays.items()}, names)
    mismatched = apart_from_classes(match.mismatched) if classes else match.mismatched
    differences = [classes, depth_difference(shapes, arrays)]
    differences += _differences(file, match.missing, mismatched, surplus)
    raise UserError(
        f"{file} does not fit the model: {'; '.join(filter(None, differences))}; use the configuration that the "
        "weights were trained with"
    )


def _differences(
    file: Path, missing: list[str], mismatched: Mapping[str, tuple[Shape, Shape]], surplus: list[str]
) -> list[str]:
    """Describe how a file differs from a model. The log lists every name, the texts only the first few."""
    texts = []
    if missing:
        logger.error("%s lacks: %s", file, ", ".join(missing))
        texts.append(f"it lacks {join_names(missing)}")
    if mismatched:
        shapes = shape_texts(mismatched)
        logger.error("%s has tensors of a different shape: %s", file, ", ".join(shapes))
        texts.append(f"it has {join_names(shapes)}")
    if surplus:
        texts.append(f"this model has no {join_names(surplus)}")
    return texts


def _shapes(model: Layer) -> dict[str, Shape]:
    return {name: tuple(int(side) for side in tensor.shape) for name, tensor in model.state_dict().items()}


def _surplus_of_backbone(match: Match) -> list[str]:
    """Return the tensors of the file's backbone that the model lacks, without which it computes something else."""
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
    """Load all tensors of a model, for evaluation, prediction and resuming.

    Args:
        model: the model, changed in place.
        path: the weight file, with or without its extension.

    Returns:
        The arrays of the file by this project's names, and the classes of the file.

    Raises:
        UserError: the file is missing or unreadable, lacks a tensor, or has a tensor of another shape.
    """
    content = read_weights(path)
    file = content.path
    arrays = _with_own_names(model, file, content.arrays, whole=True)
    match = match_state(model, arrays)
    _require_whole(content.path, model, arrays, match, content.categories)
    categories = believed_classes(file, content.categories, arrays)
    if match.unused:
        logger.warning("%s: not used by this model: %s", file, _by_part(match.unused))
    fill_weights(model, match.matched)
    logger.info("loaded %d tensors from %s", len(match.matched), file)
    return WeightFile(file, arrays, categories)


def believed_classes(file: Path, categories: Categories | None, arrays: Mapping[str, np.ndarray]) -> Categories | None:
    """Return the classes of a file if their number agrees with the shapes of its tensors, None otherwise.

    Raises:
        UserError: a file of this project contradicts itself.
    """
    count = ClassCounts.of({name: array.shape for name, array in arrays.items()}).things
    if categories is None or count is None or count == len(categories):
        return categories
    if file.suffix in (".pth", ".pt"):
        # mmdetection writes the class names of its data set even if the model has other classes
        logger.warning(
            "%s names %d classes, but its tensors are for %d: the names are ignored", file, len(categories), count
        )
        return None
    raise UserError(
        f"{file} is damaged: it names {len(categories)} classes, its tensors are for {count}; copy or download it again"
    )


def load_pretrained(model: Layer, path: str | Path, categories: Categories | None = None) -> None:
    """Load the weights that a training starts from: a backbone, this model, or a related one.

    The file has to contain the complete backbone of the model; only the offsets of deformable convolutions may be
    missing, whose initial value of zero has no effect. In all other parts, the layers whose tensors all have the same
    names and shapes in the file are loaded, and the others keep their initial values. Classifiers also keep their
    initial values if the file was trained for different classes. The log contains the number of loaded tensors of each
    part.

    Args:
        model: the model, changed in place.
        path: the weight file, with or without its extension.
        categories: the classes of the training set, if they are known.

    Raises:
        UserError: the file is missing or unreadable, or does not contain the backbone of the model.
    """
    content = read_weights(path)
    file = content.path
    arrays = _with_own_names(model, file, content.arrays, whole=False)
    match = match_state(model, arrays)
    if not any(name.startswith(BACKBONE) for name in arrays):
        prefixed = match_state(model, arrays, BACKBONE)
        if len(prefixed.matched) + len(prefixed.mismatched) > len(match.matched) + len(match.mismatched):
            match = prefixed
    if not match.matched and not match.mismatched:
        raise UserError(
            f"{file} has no tensor of this model (its first one is '{next(iter(arrays))}'); is it a ResNet?"
        )
    _require_backbone(file, model, match)
    unfilled = {layer_of(name) for name in match.unfilled()}
    if categories is not None and content.categories is not None and len(categories) == len(content.categories):
        difference = content.categories.difference(categories, str(file), "the training set")
        if difference:
            logger.warning("the classifiers keep their initial values because the classes differ: %s", difference)
            unfilled |= {layer_of(name) for name, array in match.matched.items() if class_layer(name, array.shape)}
    chosen = {name: array for name, array in match.matched.items() if layer_of(name) not in unfilled}
    fill_weights(model, chosen)
    _report_start(file, model, match, chosen)


def _require_backbone(file: Path, model: Layer, match: Match) -> None:
    """Check that the file contains the complete backbone of the model, and not a deeper one.

    Raises:
        UserError: it does not.
    """
    required = [name for name in model.state_dict() if name.startswith(BACKBONE) and not starts_neutral(name)]
    missing = [name for name in match.missing if name in set(required)]
    mismatched = {name: pair for name, pair in match.mismatched.items() if name in set(required)}
    surplus = [name for name in _surplus_of_backbone(match) if not starts_neutral(name)]
    if not missing and not mismatched and not surplus:
        return
    in_file = [name for name in [*match.matched, *match.mismatched, *match.unused] if name.startswith(BACKBONE)]
    fitting = len(required) - len(missing) - len(mismatched)
    differences = [f"{fitting} of {len(required)} tensors fit", depth_difference(required, in_file)]
    differences += _differences(file, missing, mismatched, surplus)
    raise UserError(
        f"{file} does not hold this model's backbone: {'; '.join(filter(None, differences))}; set "
        "pretrain_weights to weights of the same backbone (ResNet.depth, variant, groups, base_width)"
    )


def _report_start(file: Path, model: Layer, match: Match, chosen: Mapping[str, np.ndarray]) -> None:
    """Log how many tensors of each part were loaded, which were not, and which tensors of the file are unused."""
    totals, filled = part_counts(model.state_dict()), part_counts(chosen)
    counts = ", ".join(f"{part} {filled[part]} of {total}" for part, total in totals.items())
    logger.info("loaded %d of %d tensors from %s: %s", len(chosen), sum(totals.values()), file, counts)
    initial = [name for name in model.state_dict() if name not in chosen]
    if initial:
        whole = [part for part in totals if not filled[part]]
        layers = dict.fromkeys(layer_of(name) for name in initial if part_of(name) not in whole)
        texts = [*(f"all of {part}" for part in whole), *(layers if len(layers) <= LISTED_LAYERS else ())]
        if len(layers) > LISTED_LAYERS:
            texts.append(f"{join_names(layers)} layers")
        log = logger.info if set(whole) == set(totals) - {part_of(BACKBONE)} and not layers else logger.warning
        log("not in %s, start as initialised: %s", file, ", ".join(texts))
        others = {name: pair for name, pair in match.mismatched.items() if name.endswith("weight")}
        if others:
            logger.warning("tensors of a different shape in %s: %s", file, join_names(shape_texts(others)))
    unused = [name for name in match.unused if ignore_reason(name) is None]
    if unused:
        logger.warning("not used from %s: %s", file, _by_part(unused))


def _by_part(names: list[str]) -> str:
    """Return a text such as ``mask_head (24 tensors), semantic (18 tensors)``."""
    return ", ".join(f"{part} ({count} tensors)" for part, count in part_counts(names).items())
