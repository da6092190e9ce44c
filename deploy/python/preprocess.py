"""Pre-processing of images with the steps listed in ``infer_cfg.yml``.

The functions are those of the readers in training and evaluation, so the results are bitwise identical.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.common.errors import UserError
from deploy.common.pixels import keep_ratio_size, normalize, pad_to, resize_image, round_up
from deploy.common.printable import shown

__all__ = ["Preprocessing"]

LARGEST_SIDE = 1 << 14
"""In pixels; a network input of this height and width takes three gigabytes."""
MOST_STEPS = 16
INTERPOLATIONS = (0, 1, 2, 3, 4)
"""OpenCV's codes for nearest, linear, cubic, area and Lanczos interpolation."""


@dataclass
class _Image:
    """An image between two steps: pixels [H, W, 3] ([3, H, W] after Permute), size (h, w), resize factor (y, x)."""

    pixels: np.ndarray
    size: tuple[int, int]
    factor: tuple[float, float] = (1.0, 1.0)


_Step = Callable[[_Image], None]


@dataclass(frozen=True)
class Preprocessing:
    """Converts images to inputs of the graph.

    Attributes:
        steps: applied to each image, in order.
        stride: height and width of a batch are padded to multiples of it.
        fixed: height and width of the graph's input if they were fixed by the export, else None.
    """

    steps: Sequence[_Step] = field(default_factory=tuple)
    stride: int = 1
    fixed: tuple[int | None, int | None] = (None, None)

    @classmethod
    def from_config(cls, entries: Any, source: str, image_shape: Any = None) -> Preprocessing:
        """Build the steps from the list ``Preprocess``.

        Args:
            entries: list from infer_cfg.yml, mappings with ``type`` and the arguments of the step.
            source: file name for error messages.
            image_shape: [3, height, width] of the graph's input; None or -1 for dynamic sides.

        Raises:
            UserError: a step or an argument is not supported, or the steps do not produce [3, H, W] float32.
        """
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise UserError(f"{source}: Preprocess must be a list of steps: export the model again")
        steps: list[_Step] = []
        stride = 1
        kinds = [entry.get("type") for entry in entries]
        if len(kinds) > MOST_STEPS:
            raise UserError(
                f"{source}: Preprocess has {len(kinds)} steps, expected at most {MOST_STEPS}: export the model again"
            )
        for kind, entry in zip(kinds, entries):
            arguments = {key: value for key, value in entry.items() if key != "type"}
            if kind not in (*_FACTORIES, "PadStride"):
                known = ", ".join([*_FACTORIES, "PadStride"])
                raise UserError(f"{source}: the step {shown(kind)} of Preprocess is not supported, only {known}")
            try:
                _check_names(arguments, _FACTORIES.get(kind, _stride))
                if kind == "PadStride":
                    stride = _stride(**arguments)
                else:
                    steps.append(_FACTORIES[kind](**arguments))
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{source}: the step {kind} of Preprocess is invalid: {error}") from error
        ordered = [kind for kind in kinds if kind != "PadStride"]
        if "NormalizeImage" not in ordered or "Permute" not in ordered:
            raise UserError(f"{source}: Preprocess must contain NormalizeImage and Permute: export the model again")
        if ordered.index("Permute") != len(ordered) - 1:
            raise UserError(f"{source}: Preprocess must contain Permute once, at its end: export the model again")
        return cls(tuple(steps), stride, _fixed_sides(image_shape, source))

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Convert a batch.

        Args:
            images: uint8 [h, w, 3] RGB each, of any sizes; at least one.

        Returns:
            float32 ``image`` [B, 3, H, W], padded with zeros on the right and at the bottom, ``im_shape`` [B, 2]
            (h, w) without the padding, ``scale_factor`` [B, 2] (y, x).

        Raises:
            UserError: an image does not fit into the fixed input of the graph.
        """
        prepared = [_Image(image, (image.shape[0], image.shape[1])) for image in images]
        for image in prepared:
            for step in self.steps:
                step(image)
        height, width = (self._side(axis, max(image.size[axis] for image in prepared)) for axis in (0, 1))
        return {
            "image": np.stack([pad_to(image.pixels, (height, width), 0.0) for image in prepared]),
            "im_shape": np.array([image.size for image in prepared], np.float32),
            "scale_factor": np.array([image.factor for image in prepared], np.float32),
        }

    def _side(self, axis: int, needed: int) -> int:
        """Return the height (axis 0) or width of a batch, given that of its largest image."""
        fixed = self.fixed[axis]
        if fixed is None:
            return round_up(needed, self.stride)
        if needed > fixed:
            name = ("height", "width")[axis]
            raise UserError(
                f"an image has the {name} {needed} after resizing, but the graph was exported for {fixed}: "
                "export without TestReader.inputs_def.image_shape"
            )
        return fixed


def _fixed_sides(image_shape: Any, source: str) -> tuple[int | None, int | None]:
    if image_shape is None:
        return None, None
    sides = image_shape if isinstance(image_shape, list) else []
    if len(sides) != 3 or not all(side is None or (type(side) is int and -1 <= side <= LARGEST_SIDE) for side in sides):
        raise UserError(
            f"{source}: image_shape is {shown(image_shape)}, expected [3, height, width] of up to {LARGEST_SIDE} pixels"
        )
    height, width = (side if side is not None and side > 0 else None for side in sides[1:])
    return height, width


def _check_names(arguments: Mapping[str, Any], factory: Callable[..., Any]) -> None:
    """Check the argument names of a step against the signature of its factory function."""
    parameters = inspect.signature(factory).parameters
    unknown = [name for name in arguments if name not in parameters]
    if unknown:
        raise ValueError(f"unknown argument '{shown(unknown[0])}', expected {', '.join(parameters) or 'none'}")
    lacking = [name for name, one in parameters.items() if one.default is one.empty and name not in arguments]
    if lacking:
        raise ValueError(f"the argument '{lacking[0]}' is missing")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}, expected true or false")
    return value


def _stride(*, stride: Any = 1) -> int:
    """Return the padding stride; PaddleDetection uses 0 and -1 for no padding."""
    if type(stride) is not int or not -1 <= stride <= LARGEST_SIDE:
        raise ValueError(f"stride is {shown(stride)}, expected an integer up to {LARGEST_SIDE}")
    return max(1, stride)


def _resize(target_size: Sequence[int] | int, keep_ratio: bool = True, interp: int = 1) -> _Step:
    sides = tuple(target_size) if isinstance(target_size, (list, tuple)) else (target_size, target_size)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"target_size is {shown(target_size)}, expected two integers from 1 to {LARGEST_SIDE}")
    _flag("keep_ratio", keep_ratio)
    if type(interp) is not int or interp not in INTERPOLATIONS:
        raise ValueError(f"interp is {shown(interp)}, expected one of {', '.join(map(str, INTERPOLATIONS))}")

    def step(image: _Image) -> None:
        height, width = image.size
        size = keep_ratio_size(height, width, sides) if keep_ratio else (sides[0], sides[1])
        image.pixels = resize_image(image.pixels, size, interp)
        image.factor = (image.factor[0] * (size[0] / height), image.factor[1] * (size[1] / width))
        image.size = size

    return step


def _normalize(
    mean: Sequence[float], std: Sequence[float], is_scale: bool = True, norm_type: str = "mean_std"
) -> _Step:
    if norm_type not in ("mean_std", "none"):
        raise ValueError(f"norm_type is {shown(norm_type)}, expected mean_std or none")
    _flag("is_scale", is_scale)
    if norm_type == "none":
        mean, std = (0.0,) * 3, (1.0,) * 3
    for values in (mean, std):
        numbers = isinstance(values, (list, tuple)) and all(type(value) in (int, float) for value in values)
        if not numbers or len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise ValueError(f"mean and std must be lists of three finite numbers, got {shown(values)}")
    shift, spread = ([float(value) for value in values] for values in (mean, std))
    if min(spread) <= 0:
        raise ValueError("the values of std must be positive")

    def step(image: _Image) -> None:
        image.pixels = normalize(image.pixels, shift, spread, is_scale)

    return step


def _permute() -> _Step:
    def step(image: _Image) -> None:
        image.pixels = np.ascontiguousarray(image.pixels.transpose(2, 0, 1))

    return step


_FACTORIES: Mapping[str, Callable[..., _Step]] = {"Resize": _resize, "NormalizeImage": _normalize, "Permute": _permute}
