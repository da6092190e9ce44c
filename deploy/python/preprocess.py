"""Images as the exported graph takes them, by the steps that ``infer_cfg.yml`` lists.

The arithmetic is the reader's of training and evaluation, so the numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.common.errors import UserError
from deploy.common.pixels import keep_ratio_size, normalize, pad_to, resize_image, round_up

__all__ = ["Preprocessing"]


@dataclass
class _Image:
    """An image on its way: pixels [H, W, 3], after Permute [3, H, W]; size (h, w); factor (y, x) resized / original."""

    pixels: np.ndarray
    size: tuple[int, int]
    factor: tuple[float, float] = (1.0, 1.0)


_Step = Callable[[_Image], None]


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network.

    Attributes:
        steps: change an image, in order.
        stride: height and width of a batch become multiples of it.
        fixed: height and width of the graph's input where the export has fixed them; None where it has not.
    """

    steps: Sequence[_Step] = field(default_factory=tuple)
    stride: int = 1
    fixed: tuple[int | None, int | None] = (None, None)

    @classmethod
    def from_config(cls, entries: Any, source: str, image_shape: Any = None) -> Preprocessing:
        """Read the list ``Preprocess``.

        Args:
            entries: of infer_cfg.yml: mappings with ``type`` and its arguments.
            source: the file, for complaints.
            image_shape: [3, height, width] of the graph's input, None or -1 where a side is open.

        Raises:
            UserError: a step or an argument that is not known here, or none that makes [3, H, W] float32.
        """
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise UserError(f"{source}: Preprocess must be a list of steps, export the model again")
        steps: list[_Step] = []
        stride = 1
        for entry in entries:
            arguments = dict(entry)
            kind = arguments.pop("type", None)
            try:
                if kind == "PadStride":
                    stride = max(1, int(arguments.pop("stride", 0)))
                    if arguments:
                        raise TypeError(f"unexpected arguments {', '.join(arguments)}")
                elif kind in _MAKERS:
                    steps.append(_MAKERS[kind](**arguments))
                else:
                    known = ", ".join([*_MAKERS, "PadStride"])
                    raise UserError(f"{source}: the step {kind} of Preprocess is not known here ({known})")
            except (TypeError, ValueError) as error:
                raise UserError(f"{source}: the step {kind} of Preprocess is wrong: {error}") from error
        kinds = [entry.get("type") for entry in entries]
        if "NormalizeImage" not in kinds or "Permute" not in kinds:
            raise UserError(f"{source}: Preprocess must have NormalizeImage and Permute, export the model again")
        return cls(tuple(steps), stride, _fixed_sides(image_shape, source))

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Prepare one batch.

        Args:
            images: uint8 [h, w, 3] RGB, of any sizes; at least one.

        Returns:
            float32 ``image`` [B, 3, H, W], padded with zeros on the right and at the bottom, ``im_shape`` [B, 2]
            (h, w) without the padding, ``scale_factor`` [B, 2] (y, x).

        Raises:
            UserError: an image is larger than the graph's input.
        """
        prepared = [_Image(image, (image.shape[0], image.shape[1])) for image in images]
        for one in prepared:
            for step in self.steps:
                step(one)
        height, width = (self._side(axis, max(one.size[axis] for one in prepared)) for axis in (0, 1))
        return {
            "image": np.stack([pad_to(one.pixels, (height, width), 0.0) for one in prepared]),
            "im_shape": np.array([one.size for one in prepared], np.float32),
            "scale_factor": np.array([one.factor for one in prepared], np.float32),
        }

    def _side(self, axis: int, needed: int) -> int:
        """Height (axis 0) or width of a batch whose largest image needs so much."""
        fixed = self.fixed[axis]
        if fixed is None:
            return round_up(needed, self.stride)
        if needed > fixed:
            name = ("height", "width")[axis]
            raise UserError(
                f"an image has the {name} {needed} after resizing, the graph was exported for {fixed} alone: "
                "export without TestReader.inputs_def.image_shape"
            )
        return fixed


def _fixed_sides(image_shape: Any, source: str) -> tuple[int | None, int | None]:
    if image_shape is None:
        return None, None
    if not isinstance(image_shape, list) or len(image_shape) != 3:
        raise UserError(f"{source}: image_shape is {image_shape}, expected [3, height, width]")
    height, width = (side if isinstance(side, int) and side > 0 else None for side in image_shape[1:])
    return height, width


def _resize(target_size: Sequence[int] | int, keep_ratio: bool = True, interp: int = 1) -> _Step:
    sides = (target_size, target_size) if isinstance(target_size, int) else tuple(int(side) for side in target_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"target_size is {target_size}, expected two positive numbers")

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
        raise ValueError(f"norm_type is {norm_type}, expected mean_std or none")
    if norm_type == "none":
        mean, std = (0.0,) * 3, (1.0,) * 3
    shift, spread = ([float(value) for value in values] for values in (mean, std))
    if len(shift) != 3 or len(spread) != 3 or min(spread) <= 0:
        raise ValueError("mean and std must have three values, those of std above 0")

    def step(image: _Image) -> None:
        image.pixels = normalize(image.pixels, shift, spread, is_scale)

    return step


def _permute() -> _Step:
    def step(image: _Image) -> None:
        image.pixels = np.ascontiguousarray(image.pixels.transpose(2, 0, 1))

    return step


_MAKERS: Mapping[str, Callable[..., _Step]] = {"Resize": _resize, "NormalizeImage": _normalize, "Permute": _permute}
