"""Weights of other implementations as this project's: names, layouts, and the proof that nothing was forgotten.

Sources: the authors' checkpoints (mmdetection 2.x and 3.x), torchvision's ResNets as backbones, and the checkpoint of
the 2021 Paddle reproduction of HTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from paddle.nn import Layer

from ppdet.engine.official_names import official_blocks, official_name, official_value
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["Conversion", "compare_states", "convert_state", "from_official", "from_reproduction", "is_reproduction"]

logger = setup_logger(__name__)

LISTED = 6
"""An error message names this many tensors; the log names all of them."""

_TORCHVISION = "layer1.0.conv1.weight"
_REPRODUCTION_MASK = "bbox_head.mask_head."
_REPRODUCTION_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)
"""Stds of the reproduction's third stage; the official ones are .033 and .067."""


@dataclass
class Conversion:
    """What became of a checkpoint's tensors.

    Attributes:
        arrays: by this project's names, in this project's layout.
        sources: source name by this project's name.
        left: source names that were not converted, with the reason.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


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
            counter = plain.endswith("num_batches_tracked")
            result.left[name] = "a counter that nothing reads" if counter else "no counterpart in this project"
        elif own in result.arrays:
            raise UserError(f"the checkpoint's '{name}' and '{result.sources[own]}' both mean {own}")
        else:
            result.arrays[own] = official_value(plain, state[name])
            result.sources[own] = name
    return result


def is_reproduction(names: Mapping[str, np.ndarray]) -> bool:
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


def convert_state(model: Layer, state: Mapping[str, np.ndarray]) -> Conversion:
    """Convert an official checkpoint for a model and account for every tensor on both sides.

    Args:
        model: what the weights are for; only its names and shapes are looked at.
        state: the checkpoint's arrays by official name.

    Returns:
        Exactly the model's tensors, and what was left with the reason.

    Raises:
        UserError: a tensor of the model stays unfilled or has another shape; the message names it.
    """
    result = from_official(state)
    wanted = {name: tuple(int(side) for side in tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [name for name in result.arrays if name not in wanted]:
        result.left[result.sources.pop(name)] = f"this model has no {name}"
        del result.arrays[name]
    missing = [name for name in wanted if name not in result.arrays]
    reshaped = [
        f"{name} {list(array.shape)} instead of {list(wanted[name])}"
        for name, array in result.arrays.items()
        if array.shape != wanted[name]
    ]
    for what, names in (("lacks", missing), ("has in another shape", reshaped)):
        if names:
            logger.error("the checkpoint %s: %s", what, ", ".join(names))
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            raise UserError(
                f"the checkpoint does not fit the model: it {what} {', '.join(names[:LISTED])}{more}; use the "
                "configuration of the same architecture, depth and number of classes"
            )
    result.arrays = {name: result.arrays[name] for name in wanted}
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
