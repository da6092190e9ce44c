"""Converting checkpoints of other implementations, with a check that no tensor was forgotten.

What is known of the implementations is in `ppdet.checkpoint.names`. Until the final result, arrays are views of the
source, which may itself be a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from paddle.nn import Layer

from ppdet.checkpoint.matching import (
    BACKBONE,
    apart_from_classes,
    depth_difference,
    join_names,
    other_class_count,
    shape_texts,
)
from ppdet.checkpoint.source import Conversion, Source, find_source, registered_sources
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "Conversion",
    "compare_states",
    "convert_state",
    "fit_model",
    "foreign_source",
    "with_own_names",
]

logger = setup_logger(__name__)


def foreign_source(names: Collection[str]) -> Source | None:
    """Return the implementation whose checkpoint has these names; None if it is unknown or needs no conversion."""
    source = find_source(names)
    return None if source is None or source.native else source


def with_own_names(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Convert a checkpoint as far as that is possible without a model; return it as it is otherwise.

    Raises:
        UserError: the checkpoint has an unsupported layout.
    """
    source = foreign_source(state)
    return state if source is None or source.needs_model else source.convert(state).arrays


def convert_state(model: Layer, state: Mapping[str, np.ndarray]) -> Conversion:
    """Convert the checkpoint of another implementation for a model and account for every tensor on both sides.

    Args:
        model: the model that the weights are for; only the names, shapes and element types of its tensors matter.
        state: the checkpoint's arrays by their names there.

    Returns:
        Exactly the model's tensors, and the tensors that were not converted with the reasons.

    Raises:
        UserError: the names are of no known implementation, or the checkpoint does not fit the model.
    """
    source = foreign_source(state)
    if source is not None:
        return fit_model(model, source.convert(state, model))
    present = sum(name in state for name in model.state_dict())
    if present:
        raise UserError(f"the checkpoint has this project's names already ({present} of this model's); use it as it is")
    convertible = "; ".join(source.description for source in registered_sources().values() if not source.native)
    raise UserError(
        f"the checkpoint is of an unknown architecture: its first tensor is '{next(iter(state), '')}'; these can "
        f"be converted: {convertible}"
    )


def fit_model(model: Layer, result: Conversion) -> Conversion:
    """Reduce a conversion to exactly the tensors of a model, in the model's order and element types.

    Args:
        model: the model that the weights are for.
        result: the converted checkpoint, changed in place.

    Returns:
        ``result``.

    Raises:
        UserError: the checkpoint lacks a tensor of the model or has it in another shape; the message names it.
    """
    tensors = model.state_dict()
    model_shapes = {name: tuple(int(side) for side in tensor.shape) for name, tensor in tensors.items()}
    surplus = [name for name in result.arrays if name not in model_shapes]
    surplus_backbone = [name for name in surplus if name.startswith(BACKBONE)]
    for name in surplus:
        if name in result.sources:
            result.left[result.sources.pop(name)] = f"this model has no {name}"
        del result.arrays[name]
    missing = [name for name in model_shapes if name not in result.arrays]
    file_shapes = {name: array.shape for name, array in result.arrays.items()}
    mismatched = {
        name: (model_shapes[name], shape) for name, shape in file_shapes.items() if shape != model_shapes[name]
    }
    classes = other_class_count(model_shapes, file_shapes)
    if classes and not missing and not apart_from_classes(mismatched):
        raise UserError(f"the checkpoint does not fit the model: {classes}; use the class counts of the weights")
    difference = depth_difference(model_shapes, [*file_shapes, *surplus_backbone])
    depth = "" if difference is None else f"{difference}; "
    for verb, names in (("lacks", missing), ("has in another shape", shape_texts(mismatched))):
        if names:
            logger.error("the checkpoint %s: %s", verb, ", ".join(names))
            raise UserError(
                f"the checkpoint does not fit the model: {depth}it {verb} {join_names(names)}; use the "
                "configuration of the same architecture, depth and number of classes"
            )
    if surplus_backbone:
        raise UserError(
            f"the checkpoint does not fit the model: {depth}this model has no {join_names(surplus_backbone)}; use the "
            "configuration of the same architecture and depth"
        )
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).rsplit(".", 1)[-1]
        result.arrays[name] = np.ascontiguousarray(
            result.arrays.pop(name), "float32" if kind in ("float16", "bfloat16") else kind
        )
    return result


def compare_states(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], tolerance: float = 0.0
) -> list[str]:
    """Compare two checkpoints.

    Args:
        first: arrays by name.
        second: arrays by name.
        tolerance: largest absolute difference that counts as equal.

    Returns:
        A text for each tensor that differs.
    """
    differences = []
    for name in [*first, *(name for name in second if name not in first)]:
        if name not in second:
            differences.append(f"{name} is in the first only")
        elif name not in first:
            differences.append(f"{name} is in the second only")
        elif first[name].shape != second[name].shape:
            differences.append(f"{name} has shape {list(first[name].shape)} and {list(second[name].shape)}")
        elif first[name].size:
            a, b = first[name].astype(np.float64), second[name].astype(np.float64)
            equal = (a == b) | (np.isnan(a) & np.isnan(b))
            largest = float(np.max(np.where(equal, 0.0, np.abs(a - b))))
            if not largest <= tolerance:
                differences.append(f"{name} differs by up to {largest:g}")
    return differences
