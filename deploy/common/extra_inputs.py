"""Inputs of a model besides the image, such as keypoints or a prompt: their description and their values.

Values come for a whole batch (arrays with the described shape, from a program) or for each image (from JSON, without
the batch axis).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deploy.common.errors import UserError
from deploy.common.json_file import read_json
from deploy.common.printable import one_line, shown

__all__ = ["BATCH", "DTYPES", "ExtraInput", "ExtraInputs", "predict_grouped", "read_extra_inputs"]

BATCH = "B"
"""The entry of a shape that stands for the number of images; it is the first one."""
DTYPES = ("float32", "int32", "int64", "bool")

_KINDS = {"f": "iuf", "i": "iu", "b": "b"}
"""Kinds of NumPy types that each kind of input accepts."""


@dataclass(frozen=True)
class ExtraInput:
    """Description of one input.

    Attributes:
        name: of the graph's input.
        shape: sizes; None for any size, and `BATCH` for the number of images, which only the first entry may be.
        dtype: one of `DTYPES`.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str = "float32"

    @property
    def has_batch_axis(self) -> bool:
        """Whether each image has values of its own in a batch."""
        return self.shape[:1] == (BATCH,)

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Shape of the values of one image."""
        sides = self.shape[1:] if self.has_batch_axis else self.shape
        return tuple(side if isinstance(side, int) else None for side in sides)

    def array(self, value: Any, shape: Sequence[int | None], source: str) -> np.ndarray:
        """Convert a value to an array of this input's type.

        Args:
            value: number, nested lists of numbers, or array.
            shape: that it must have; None for any size.
            source: where the value comes from, for the message.

        Raises:
            UserError: it is not numeric, not finite, too large for the type, or of another shape.
        """
        expected = f"{self.dtype} {_described(shape)}"
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError) as error:  # lists of different lengths
            raise self._refusal(source, "has lists of different lengths", expected) from error
        if array.shape == (0,) and len(shape) > 1 and shape[0] in (None, 0):  # [] for no object at all
            array = np.zeros([side or 0 for side in shape], self.dtype)
        dtype = np.dtype(self.dtype)
        if array.size and array.dtype.kind not in _KINDS[dtype.kind]:
            raise self._refusal(source, f"is {shown(value, 40)}", expected)
        if array.ndim != len(shape) or any(side not in (None, size) for side, size in zip(shape, array.shape)):
            raise self._refusal(source, f"has the shape {list(array.shape)}", expected)
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(array.astype(dtype)).reshape(array.shape)
        if dtype.kind == "f" and not np.isfinite(converted).all():
            raise self._refusal(source, "has a value that is not finite", expected)
        if dtype.kind == "i" and not np.array_equal(converted, array):
            raise self._refusal(source, "has a value that is too large", expected)
        return converted

    def _refusal(self, source: str, fault: str, expected: str) -> UserError:
        return UserError(f"{source}: the extra input '{self.name}' {fault}; expected {expected}")

    def __str__(self) -> str:
        """Such as ``keypoints (float32 [any, 17, 3])``, for one image."""
        return f"{self.name} ({self.dtype} {_described(self.image_shape)})"


def _described(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if side is None else str(side) for side in shape)}]"


class ExtraInputs:
    """All inputs of a model besides the image.

    Args:
        inputs: descriptions; none for most models.
    """

    def __init__(self, inputs: Sequence[ExtraInput] = ()) -> None:
        self._inputs = tuple(inputs)

    def __iter__(self) -> Iterator[ExtraInput]:
        """The descriptions."""
        return iter(self._inputs)

    def __len__(self) -> int:
        """Number of inputs."""
        return len(self._inputs)

    def of_batch(self, values: Mapping[str, Any] | None, images: int) -> dict[str, np.ndarray]:
        """Check the arrays of a batch.

        Args:
            values: by name, in the described shapes.
            images: number of images.

        Raises:
            UserError: an input is missing, unknown, or of another shape or type.
        """
        values = self._named(values, "extra")
        arrays = {}
        for field in self:
            shape = [images] if field.has_batch_axis else []
            arrays[field.name] = field.array(values[field.name], [*shape, *field.image_shape], "extra")
        return arrays

    def of_image(self, values: Any, source: str) -> dict[str, np.ndarray]:
        """Check the values of one image, which have no batch axis.

        Args:
            values: mapping from names to numbers or nested lists of numbers.
            source: where they come from, for the message.

        Raises:
            UserError: see :meth:`of_batch`.
        """
        values = self._named(values, source)
        return {field.name: field.array(values[field.name], field.image_shape, source) for field in self}

    def stack(self, values: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Make the arrays of a batch from the values of its images (see :meth:`of_image`), of equal shapes.

        An input without a batch axis takes the values of one image only.
        """
        arrays = {}
        for field in self:
            each = [value[field.name] for value in values]
            arrays[field.name] = np.stack(each) if field.has_batch_axis else each[0]
        return arrays

    def groups(self, values: Sequence[Mapping[str, np.ndarray]]) -> list[list[int]]:
        """Indices of the images that can share a batch: their values have the same shapes, and all inputs have a batch
        axis. The order is that of the first image of each group.
        """
        shareable = all(field.has_batch_axis for field in self)
        groups: dict[Any, list[int]] = {}
        for index, value in enumerate(values):
            key = tuple(value[field.name].shape for field in self) if shareable else index
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def blank(self) -> dict[str, np.ndarray]:
        """Zeros for one image, without batch axis; open sizes are 1."""
        return {
            field.name: np.zeros([1 if side is None else side for side in field.image_shape], field.dtype)
            for field in self
        }

    def _named(self, values: Any, source: str) -> Mapping[str, Any]:
        """Check the names; return the values."""
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            raise UserError(f"{source} is {shown(values, 40)}; expected a mapping from extra inputs to values")
        listed = ", ".join(map(str, self)) or "none"
        unknown = [name for name in values if name not in {field.name for field in self}]
        if unknown:
            raise UserError(
                f"{source}: '{one_line(unknown[0], 60)}' is not an extra input of this model, which takes {listed}"
            )
        missing = [field for field in self if field.name not in values]
        if missing:
            raise UserError(f"{source}: the extra input {missing[0]} is missing; the model requires {listed}")
        return values


class _Predictor(Protocol):
    """The part of :class:`deploy.python.Predictor` that `predict_grouped` needs."""

    extra_inputs: ExtraInputs

    def predict(self, images: Sequence[np.ndarray], extra: Any = None) -> Sequence[Any]:
        """Detect on one batch of images."""


def predict_grouped(
    predictor: _Predictor, images: Sequence[np.ndarray], values: Sequence[Mapping[str, np.ndarray]]
) -> list[Any]:
    """Predict images with extra inputs of their own, in as few batches as their shapes allow.

    Args:
        predictor: the model.
        images: uint8 [h, w, 3] RGB each.
        values: extra inputs of each image, see :meth:`ExtraInputs.of_image`.

    Returns:
        what the predictor returns for each image.
    """
    if not len(predictor.extra_inputs):
        return list(predictor.predict(images))
    results: list[Any] = [None] * len(images)
    for group in predictor.extra_inputs.groups(values):
        arrays = predictor.extra_inputs.stack([values[index] for index in group])
        for index, result in zip(group, predictor.predict([images[index] for index in group], arrays)):
            results[index] = result
    return results


def read_extra_inputs(path: str, names: Sequence[str], inputs: ExtraInputs) -> list[dict[str, np.ndarray]]:
    """Read the extra inputs of images from a JSON file, ``{"a.jpg": {"prompt": [1, 2]}}``.

    Args:
        path: the file.
        names: file names of the images, possibly with folders; an entry under the last part of a name serves too.
        inputs: what the model requires.

    Returns:
        the values of each image, see :meth:`ExtraInputs.of_image`.

    Raises:
        UserError: the file cannot be read, has no entry for an image, or an entry does not fit the model.
    """
    entries = read_json(path, "file of extra inputs", "--extra_inputs names a JSON file")
    if not isinstance(entries, Mapping):
        raise UserError(f"{path} is not a mapping from file names of images to their extra inputs")
    values = []
    for name in names:
        key = next((key for key in (name, name.rpartition("/")[2]) if key in entries), None)
        if key is None:
            raise UserError(
                f"{path} has no entry for the image {name}: the model requires {', '.join(map(str, inputs))}"
            )
        values.append(inputs.of_image(entries[key], f"{path}, image {name}"))
    return values
