"""The inputs and outputs of an exported graph, as ``infer_cfg.yml`` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.common.errors import UserError
from deploy.common.extra_inputs import BATCH, DTYPES, ExtraInput, ExtraInputs
from deploy.common.instance_masks import MASK_FRAMES
from deploy.common.model_outputs import OUTPUT_NAMES, mask_frame
from deploy.common.printable import shown

__all__ = ["IMAGE_INPUTS", "Interface"]

IMAGE_INPUTS = ("image", "im_shape", "scale_factor")
"""The inputs that pre-processing makes of an image."""

_LARGEST_SIDE = 1 << 20
_MAX_AXES = 8
_MAX_INPUTS = 64
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Interface:
    """Names and shapes of what enters and leaves the graph.

    Attributes:
        inputs: names of the inputs.
        outputs: names of the outputs in order; None in a file that does not list them, where the first outputs are
            ``bbox``, ``bbox_num`` and ``mask``.
        extra_inputs: the inputs besides `IMAGE_INPUTS`.
        has_boxes: the model predicts boxes.
        frame: frame of the masks, see :mod:`deploy.common.paste`.
    """

    inputs: tuple[str, ...] = IMAGE_INPUTS
    outputs: tuple[str, ...] | None = None
    extra_inputs: ExtraInputs = ExtraInputs()  # noqa: RUF009  immutable
    has_boxes: bool = True
    frame: str = "box"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], has_masks: bool, file: Path) -> Interface:
        """Read the keys ``inputs``, ``outputs``, ``extra_inputs`` and ``mask_frame``; none of them is required.

        Args:
            config: content of the file.
            has_masks: its key ``mask``.
            file: for the message.

        Raises:
            UserError: a value is invalid, or values contradict each other.
        """
        extra = _extra_inputs(config.get("extra_inputs"), file)
        inputs = _names(config, "inputs", file) or (*IMAGE_INPUTS, *(field.name for field in extra))
        known = {*IMAGE_INPUTS, *(field.name for field in extra)}
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise UserError(
                f"{file}: inputs lists {shown(unknown[0])}, which extra_inputs does not describe: export the model "
                "again"
            )
        missing = [name for name in ("image", *(field.name for field in extra)) if name not in inputs]
        if missing:
            raise UserError(f"{file}: inputs does not list {shown(missing[0])}: export the model again")
        outputs = _names(config, "outputs", file)
        frame = config.get("mask_frame")
        frame = "box" if frame is None else frame
        if frame not in MASK_FRAMES:
            raise UserError(
                f"{file}: mask_frame is {shown(frame)}, expected one of {', '.join(MASK_FRAMES)}: export the model "
                "again"
            )
        _check_outputs(outputs or ("bbox", "bbox_num", *(("mask",) if has_masks else ())), has_masks, frame, file)
        has_boxes = outputs is None or "bbox" in outputs
        return cls(inputs, outputs, ExtraInputs(extra), has_boxes, frame if has_masks else "box")

    def named_outputs(self, arrays: list[Any], has_masks: bool, graph: Path) -> dict[str, Any]:
        """Name the arrays that a graph returns.

        Args:
            arrays: in the order of the graph's outputs.
            has_masks: the model predicts masks.
            graph: for the message.

        Raises:
            UserError: there are not as many as there should be.
        """
        names = self.outputs or ("bbox", "bbox_num", "mask")[: 3 if has_masks else 2]
        # Without a list of names the first outputs count: other tools export further ones behind them.
        if len(arrays) < len(names) or (self.outputs is not None and len(arrays) != len(names)):
            raise UserError(
                f"{graph} returns {len(arrays)} outputs instead of {len(names)} ({', '.join(names)}): copy the whole "
                "export folder, or export the model again"
            )
        return dict(zip(names, arrays))


def _names(config: Mapping[str, Any], key: str, file: Path) -> tuple[str, ...] | None:
    """A list of different names; None if the file has none."""
    names = config.get(key)
    if names is None:
        return None
    valid = isinstance(names, list) and 0 < len(names) <= _MAX_INPUTS
    if not valid or not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME for name in names):
        raise UserError(f"{file}: {key} is {shown(names)}, expected a list of names: export the model again")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"{file}: {key} lists {shown(repeated[0])} twice: export the model again")
    return tuple(names)


def _extra_inputs(entries: Any, file: Path) -> list[ExtraInput]:
    if entries is None:
        return []
    if not isinstance(entries, list) or len(entries) > _MAX_INPUTS:
        raise UserError(f"{file}: extra_inputs is {shown(entries)}, expected a list of inputs: export the model again")
    inputs: list[ExtraInput] = []
    shape: Any
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{file}: extra_inputs has {shown(entry)}, expected a mapping with name, shape and dtype: export the "
                "model again"
            )
        name, shape, dtype = (entry.get(key) for key in ("name", "shape", "dtype"))
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise UserError(f"{file}: extra_inputs has the name {shown(name)}, expected a text: export the model again")
        if name in IMAGE_INPUTS or any(name == field.name for field in inputs):
            raise UserError(
                f"{file}: extra_inputs describes {shown(name)}, which is described already: export the model again"
            )
        where = f"{file}: extra_inputs.{shown(name)}"
        if dtype not in DTYPES:
            raise UserError(
                f"{where} has the dtype {shown(dtype)}, expected {', '.join(DTYPES)}: export the model again"
            )
        if not _is_shape(shape):
            raise UserError(
                f"{where} has the shape {shown(shape)}, expected a list such as [{BATCH}, 2] of whole numbers "
                f"and null, with {BATCH} allowed as the first entry: export the model again"
            )
        inputs.append(ExtraInput(name, tuple(shape), dtype))
    return inputs


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or not 0 < len(shape) <= _MAX_AXES:
        return False
    sides = shape[1:] if shape[0] == BATCH else shape
    return all(side is None or (type(side) is int and 1 <= side <= _LARGEST_SIDE) for side in sides)


def _check_outputs(names: tuple[str, ...], has_masks: bool, frame: str, file: Path) -> None:
    """Check the names of the outputs against each other and the other keys."""
    unknown = [name for name in names if name not in OUTPUT_NAMES]
    if unknown:
        raise UserError(
            f"{file}: outputs lists {shown(unknown[0])}, expected some of {', '.join(OUTPUT_NAMES)}: export the model "
            "again"
        )
    fault = ""
    if ("bbox" in names) == ("instances" in names):
        fault = "must have either bbox or instances"
    elif "bbox_num" not in names:
        fault = "lacks bbox_num"
    elif ("mask" in names) != has_masks:
        fault = f"{'lacks' if has_masks else 'has'} mask, but the key mask is {str(has_masks).lower()}"
    elif not has_masks and (set(names) & {"mask_extent", "mask_matrix", "mask_score"} or "instances" in names):
        fault = "belongs to a model with masks, but the key mask is false"
    elif has_masks and {"mask_extent", "mask_matrix"} <= set(names):
        fault = "has both mask_extent and mask_matrix"
    elif has_masks and mask_frame(names) != frame:
        fault = f"belongs to masks in the frame {mask_frame(names)}, but mask_frame is {frame}"
    elif has_masks and frame == "box" and "instances" in names:
        fault = "has no bbox, which masks in the frame box need"
    if fault:
        raise UserError(f"{file}: outputs {fault}: export the model again")
