"""Whether an architecture keeps what :class:`~ppdet.modeling.architectures.architecture.Architecture` promises.

Only types, shapes and declarations are compared here, so that nothing waits for the device. Symbols: B images, N
detections of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import paddle
from paddle import Tensor

from ppdet.structures.predictions import MASK_FRAMES, Predictions
from ppdet.utils.errors import UserError

if TYPE_CHECKING:
    from ppdet.modeling.architectures.architecture import Architecture

__all__ = ["check_declarations", "check_inputs", "check_losses", "check_predictions"]

_SHAPES: dict[str, tuple[int | str, ...]] = {
    "scores": ("N",),
    "labels": ("N",),
    "counts": ("B",),
    "boxes": ("N", 4),
    "masks": ("N", "h", "w"),
    "mask_extent": ("B", 2),
    "mask_matrices": ("N", 2, 3),
    "mask_scores": ("N",),
}


def check_declarations(model: Architecture) -> None:
    """Check the attributes of an architecture.

    Raises:
        UserError: an attribute has a value that the toolkit does not understand.
    """
    name = type(model).__name__
    for field in model.input_fields:
        if not all(hasattr(field, attribute) for attribute in ("name", "shape", "dtype")):
            raise UserError(f'{name}.input_fields contains {field!r}: write InputField("{_first(field)}", ("B", ...))')
    fields = [field.name for field in model.input_fields]
    if "image" not in fields or len(set(fields)) < len(fields):
        raise UserError(f"{name}.input_fields is {', '.join(fields)}: list 'image', and every input once")
    if model.mask_frame is not None and model.mask_frame not in MASK_FRAMES:
        raise UserError(f"{name}.mask_frame is {model.mask_frame!r}: expected None or one of {', '.join(MASK_FRAMES)}")
    if not model.has_boxes and model.mask_frame in (None, "box"):
        raise UserError(
            f"{name}.has_boxes is False, but mask_frame is {model.mask_frame!r}: a model without boxes predicts masks "
            "in the frame 'image' or 'affine'"
        )
    if not isinstance(model.training_fields, Mapping):
        raise UserError(f'{name}.training_fields is {model.training_fields!r}: write a dict such as {{"boxes": ""}}')


@paddle.jit.not_to_static
def check_inputs(model: Architecture, inputs: Mapping[str, Any]) -> None:
    """Check the inputs of a batch besides those that every image has.

    Raises:
        UserError: an input is missing, or has another shape or type than the architecture declares.
    """
    name = type(model).__name__
    for field in model.extra_inputs:
        if field.name not in inputs:
            raise UserError(
                f"{name} takes the input {field}, which the batches lack: use a dataset that adds '{field.name}' to "
                "Sample.extra"
            )
        tensor = inputs[field.name]
        dtype = str(tensor.dtype).rpartition(".")[2] if paddle.in_dynamic_mode() else field.dtype
        expected = tuple("any" if side is None else side for side in field.shape)
        if dtype != field.dtype or not _fits(list(tensor.shape), expected, {}, open_side="any"):
            raise UserError(
                f"{name} takes the input {field}, but the batches have {dtype} {list(tensor.shape)}: correct the field "
                "of the dataset, or input_fields of the architecture"
            )


def check_losses(model: Architecture, losses: Any) -> None:
    """Check what ``loss`` returns.

    Raises:
        UserError: it is no dictionary of scalar tensors with a sum that can be minimised.
    """
    name = type(model).__name__
    if not isinstance(losses, Mapping) or "loss" not in losses:
        what = f"a dict of {', '.join(map(str, losses))}" if isinstance(losses, Mapping) else _kind(losses)
        raise UserError(
            f"{name}.loss returns {what}: return a dict of the weighted losses by name, with their sum as 'loss'"
        )
    for key, value in losses.items():
        if not isinstance(value, Tensor) or list(value.shape) not in ([], [1]):
            shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
            raise UserError(f"{name}.loss returns {_kind(value)}{shape} as '{key}': every loss is a scalar tensor")
    if paddle.is_grad_enabled() and losses["loss"].stop_gradient:
        raise UserError(
            f"{name}.loss returns a 'loss' without gradient, which trains nothing: compute it from the outputs of "
            "trainable parameters, without detach() or no_grad()"
        )


@paddle.jit.not_to_static
def check_predictions(model: Architecture, predictions: Any) -> None:
    """Check what ``predict`` returns.

    Raises:
        UserError: it is no `Predictions`, differs from what the architecture declares, or has wrong shapes.
    """
    name = type(model).__name__
    if not isinstance(predictions, Predictions):
        raise UserError(
            f"{name}.predict returns {_kind(predictions)}: return a Predictions object "
            "(ppdet/structures/predictions.py)"
        )
    frame = predictions.mask_frame if predictions.has_masks else None
    has_mask_scores = predictions.mask_scores is not None
    actual = {"has_boxes": predictions.has_boxes, "mask_frame": frame, "has_mask_scores": has_mask_scores}
    for attribute, value in actual.items():
        declared = getattr(model, attribute)
        if declared != value:
            raise UserError(
                f"{name} declares {attribute} = {declared!r}, but its predictions have {attribute} = {value!r}: "
                "correct the attribute or the predictions"
            )
    sizes: dict[str, int] = {}
    for key, expected in _SHAPES.items():
        tensor = getattr(predictions, key)
        if tensor is not None and not _fits(list(tensor.shape), expected, sizes):
            described = ", ".join(map(str, expected))
            known = f" with {', '.join(f'{symbol} = {size}' for symbol, size in sizes.items())}" if sizes else ""
            raise UserError(
                f"{name}.predict returns {key} of shape {list(tensor.shape)}, expected [{described}]{known}"
            )


def _fits(shape: list[int], expected: tuple[int | str, ...], sizes: dict[str, int], open_side: str = "") -> bool:
    """Compare a shape, whose sizes are -1 where a traced graph leaves them open; note those of the symbols."""
    if len(shape) != len(expected):
        return False
    for size, side in zip(shape, expected):
        if (
            size >= 0
            and side != open_side
            and size != (sizes.setdefault(side, size) if isinstance(side, str) else side)
        ):
            return False
    return True


def _kind(value: Any) -> str:
    return "None" if value is None else "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _first(field: Any) -> Any:
    return field[0] if isinstance(field, tuple) and field else field
