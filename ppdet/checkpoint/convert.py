"""Weights of other implementations as this project's: names, layouts, and the proof that nothing was forgotten.

Everything up to the final result is a view of the source, which may itself be a mapped file.

Sources: the authors' checkpoints (mmdetection 2.x and 3.x), torchvision's ResNets as backbones, and the checkpoint of
the 2021 Paddle reproduction of HTC.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

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
from ppdet.checkpoint.names.mmdetection import official_blocks, official_name, official_value
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = [
    "Conversion",
    "compare_states",
    "convert_state",
    "fit_model",
    "from_official",
    "from_other",
    "from_reproduction",
    "is_official",
    "is_reproduction",
]

logger = setup_logger(__name__)

_TORCHVISION = "layer1.0.conv1.weight"
_OFFICIAL = re.compile(r"(module\.)?(backbone\.)?(layer1\.0\.)?conv1\.weight$")
_NORM_EPSILON = 1e-5
_REPRODUCTION_MASK = "bbox_head.mask_head."
_REPRODUCTION_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)
"""Stds of the reproduction's third stage; the official ones are .033 and .067."""


@dataclass
class Conversion:
    """What became of a checkpoint's tensors.

    Attributes:
        arrays: by this project's names, in this project's layout.
        sources: source name by this project's name, for every array that has one.
        left: source names that were not converted, with the reason.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def is_official(names: Iterable[str]) -> bool:
    """Whether names are those of mmdetection's or torchvision's ResNets (paddle.vision has them too)."""
    return any(_OFFICIAL.match(name) for name in names)


def _reason(name: str) -> str:
    """Why a source tensor has no counterpart."""
    if name.endswith("num_batches_tracked"):
        return "a counter that nothing reads"
    if re.match(r"(backbone\.)?fc\.(weight|bias)$", name):
        return "the classifier of ImageNet"
    if name.startswith(("ema_", "ema.")):
        return "an average beside the weights themselves"
    return "no counterpart in this project"


def _identity_projection(result: Conversion, channels: int) -> None:
    """Add the projection that the first block of this project's ResNet-18 and 34 has and torchvision's has not."""
    prefix = "backbone.res2.res2a.short"
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    result.arrays[f"{prefix}.conv.weight"] = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    # variance + epsilon is 1, so that the normalisation changes nothing
    for kind, array in (("weight", one), ("bias", zero), ("_mean", zero), ("_variance", one - _NORM_EPSILON)):
        result.arrays[f"{prefix}.norm.{kind}"] = array.astype(np.float32)
    logger.info("the first block has no projection; this project's gets the identity, which computes the same")


def from_official(state: Mapping[str, np.ndarray]) -> Conversion:
    """Rename the tensors of an official PyTorch checkpoint or of a torchvision ResNet.

    Raises:
        UserError: the names are those of mmdetection 1.x, whose class order differs.
    """
    names = {name: name[len("module.") :] if name.startswith("module.") else name for name in state}
    if _TORCHVISION in names.values():
        names = {name: f"backbone.{plain}" for name, plain in names.items()}
    elif any(re.match(r"(bbox_head|mask_head)\.(\d\.|shared_fcs|convs)", plain) for plain in names.values()):
        raise UserError(
            "the checkpoint has the layout of mmdetection 1.x (its box head is not in roi_head), with another order of "
            "classes; convert it with mmdetection's upgrade_model_version.py first, or take the file of version 2"
        )
    result = Conversion()
    blocks = official_blocks(names.values())
    for name, plain in names.items():
        own = official_name(plain, blocks)
        if own is None:
            result.left[name] = _reason(plain)
        elif own in result.arrays:
            raise UserError(f"the checkpoint's '{name}' and '{result.sources[own]}' both mean {own}")
        else:
            result.arrays[own] = official_value(plain, state[name])
            result.sources[own] = name
    first = "backbone.res2.res2a."
    stem = result.arrays.get(f"{first}branch2a.conv.weight")
    if stem is not None and not any(f"{first}{part}.conv.weight" in result.arrays for part in ("branch2c", "short")):
        _identity_projection(result, stem.shape[0])
    return result


def is_reproduction(names: Collection[str]) -> bool:
    """Whether names are those of the 2021 Paddle reproduction's checkpoint."""
    return any(name.startswith(_REPRODUCTION_MASK) for name in names) and "neck.lateral_convs.0.conv.weight" in names


def from_reproduction(state: Mapping[str, np.ndarray], last_stds: tuple[float, ...]) -> Conversion:
    """Rename the tensors of the 2021 Paddle reproduction and adapt its third stage.

    Its third stage was trained with stds 1/30 and 1/15. A decoded delta is output * std, so outputs are scaled by the
    ratio of its stds to the model's, which leaves every box as it was.

    Args:
        state: the checkpoint's arrays.
        last_stds: stds of the model's third stage.
    """
    result = Conversion()
    ratio = np.array(_REPRODUCTION_STDS) / np.array(last_stds)
    for name, array in state.items():
        own = name[len("bbox_head.") :] if name.startswith(_REPRODUCTION_MASK) else name
        found = re.match(r"neck\.(lateral|fpn)_convs\.(\d)\.conv\.(weight|bias)$", name)
        if found:
            own = official_name(name, {}) or name
        if name.startswith("bbox_head.bbox_delta_stage2."):
            array = (array * np.tile(ratio, array.shape[-1] // 4)).astype(array.dtype)
        result.arrays[own], result.sources[own] = array, name
    return result


def from_other(model: Layer, state: Mapping[str, np.ndarray], whole: bool = True) -> Conversion | None:
    """Rename a checkpoint of one of the known other implementations; None where the names are of none of them.

    Args:
        model: what the weights are for.
        state: the checkpoint's arrays.
        whole: the checkpoint has to be of this very architecture; otherwise a relative's will do.

    Raises:
        UserError: it cannot be for this model.
    """
    if is_official(state):
        return from_official(state)
    if not is_reproduction(state):
        return None
    stds: list[tuple[float, ...]] = getattr(getattr(model, "bbox_head", None), "bbox_stds", [])
    if len(stds) != 3 and not whole:
        return from_reproduction(state, _REPRODUCTION_STDS)
    if len(stds) != 3:
        raise UserError("the checkpoint is the 2021 reproduction's HTC of three stages; this model is another one")
    return from_reproduction(state, stds[2])


def convert_state(model: Layer, state: Mapping[str, np.ndarray]) -> Conversion:
    """Convert another implementation's checkpoint for a model and account for every tensor on both sides.

    Args:
        model: what the weights are for; only its names, shapes and element types are looked at.
        state: the checkpoint's arrays by the other implementation's names.

    Returns:
        Exactly the model's tensors, and what was left with the reason.

    Raises:
        UserError: the names are of no known implementation, or the checkpoint does not fit the model.
    """
    result = from_other(model, state)
    if result is not None:
        return fit_model(model, result)
    known = sum(name in state for name in model.state_dict())
    if known:
        raise UserError(f"the checkpoint has this project's names already ({known} of this model's); use it as it is")
    raise UserError(
        f"the checkpoint is of no known architecture: its first tensor is '{next(iter(state), '')}'; mmdetection's "
        "Mask R-CNN, Cascade Mask R-CNN and HTC with ResNet or ResNeXt are converted, and torchvision's ResNets"
    )


def fit_model(model: Layer, result: Conversion) -> Conversion:
    """Reduce renamed tensors to exactly those of a model, in its order, element types and layout.

    Raises:
        UserError: a tensor of the model stays unfilled or has another shape; the message names it.
    """
    tensors = model.state_dict()
    wanted = {name: tuple(int(side) for side in tensor.shape) for name, tensor in tensors.items()}
    strangers = [name for name in result.arrays if name not in wanted and name.startswith(BACKBONE)]
    for name in [name for name in result.arrays if name not in wanted]:
        if name in result.sources:
            result.left[result.sources.pop(name)] = f"this model has no {name}"
        del result.arrays[name]
    missing = [name for name in wanted if name not in result.arrays]
    theirs = {name: array.shape for name, array in result.arrays.items()}
    misfits = {name: (wanted[name], shape) for name, shape in theirs.items() if shape != wanted[name]}
    reshaped = shape_texts(misfits)
    classes = other_class_count(wanted, theirs)
    if classes and not missing and not apart_from_classes(misfits):
        raise UserError(f"the checkpoint does not fit the model: {classes}; use the class counts of the weights")
    depth = depth_difference(wanted, [*theirs, *strangers])
    depth = "" if depth is None else f"{depth}; "
    for what, names in (("lacks", missing), ("has in another shape", reshaped)):
        if names:
            logger.error("the checkpoint %s: %s", what, ", ".join(names))
            raise UserError(
                f"the checkpoint does not fit the model: {depth}it {what} {join_names(names)}; use the "
                "configuration of the same architecture, depth and number of classes"
            )
    if strangers:
        raise UserError(
            f"the checkpoint does not fit the model: {depth}this model has no {join_names(strangers)}; use the "
            "configuration of the same architecture and depth"
        )
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).rsplit(".", 1)[-1]
        result.arrays[name] = np.ascontiguousarray(
            result.arrays.pop(name), "float32" if kind in ("float16", "bfloat16") else kind
        )
    return result


def compare_states(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], tolerance: float = 0.0) -> list[str]:
    """Differences between two checkpoints, one text for each tensor that differs."""
    faults = []
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in other:
            faults.append(f"{name} is in the first only")
        elif name not in one:
            faults.append(f"{name} is in the second only")
        elif one[name].shape != other[name].shape:
            faults.append(f"{name} has shape {list(one[name].shape)} and {list(other[name].shape)}")
        elif one[name].size:
            first, second = one[name].astype(np.float64), other[name].astype(np.float64)
            same = (first == second) | (np.isnan(first) & np.isnan(second))
            largest = float(np.max(np.where(same, 0.0, np.abs(first - second))))
            if not largest <= tolerance:
                faults.append(f"{name} differs by up to {largest:g}")
    return faults
