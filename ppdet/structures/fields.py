"""The parts of a sample that follow its image through the transforms and into the batch.

A dataset adds a target or an input of its own by putting a field into :attr:`Sample.extra
<ppdet.structures.sample.Sample.extra>`. Most need no new class: :class:`ObjectField` and :class:`ImageField` hold
numbers without coordinates, :class:`Boxes`, :class:`Keypoints`, :class:`Masks` and :class:`LabelMap` what has some. A
class of a dataset's own derives from one of them and overrides :meth:`Field.transformed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ppdet.structures.spatial import SpatialTransform

__all__ = [
    "IGNORE",
    "Boxes",
    "Field",
    "ImageField",
    "Keypoints",
    "LabelMap",
    "Labels",
    "Masks",
    "ObjectField",
    "is_target",
    "mirrored_keypoints",
]

IGNORE = 255
"""Label of pixels that the semantic loss leaves out."""


def is_target(key: str) -> bool:
    """Return whether a key of a batch is ground truth, which exists in training only: ``gt_…`` and ``semantic``.

    Every other key is an input of the model, in training and at prediction time.
    """
    return key.startswith("gt_") or key == "semantic"


@dataclass(frozen=True, eq=False)
class Field:
    """Base class: numbers that belong to an image as a whole and have no coordinates.

    Attributes:
        array: the numbers. Fields are immutable: a transform returns a new one.
        per_object: the first axis counts the objects of the image; collate pads it to the slots of the batch.
        per_pixel: the last two axes are those of the image; collate pads them like the image.
        fill: value of the padding, and of pixels outside of the image.
        dtype: type in the batch; None keeps the array's.
    """

    array: np.ndarray
    per_object: ClassVar[bool] = False
    per_pixel: ClassVar[bool] = False
    fill: ClassVar[int] = 0
    dtype: ClassVar[Any] = None

    def transformed(self, spatial: SpatialTransform) -> Field:
        """Return the field after the image's geometry has changed."""
        return self

    def select(self, keep: np.ndarray) -> Field:
        """Return the field without the objects that leave the sample.

        Args:
            keep: bool [G].
        """
        return replace(self, array=self.array[keep]) if self.per_object else self


class ImageField(Field):
    """Numbers of an image as a whole, such as the vector of a prompt. All images of a batch have the same shape."""


class ObjectField(Field):
    """Numbers of each object, [G, ...], without coordinates, such as an identity or a score."""

    per_object = True


class Labels(ObjectField):
    """Classes, [G], int64 in the batch."""

    dtype = np.int64


class Boxes(ObjectField):
    """Boxes xyxy, [G, 4] float32, in pixels of the current image."""

    dtype = np.float32

    def transformed(self, spatial: SpatialTransform) -> Field:
        """Map the boxes."""
        return replace(self, array=spatial.boxes(self.array))


class Masks(ObjectField):
    """Bitmaps of 0 and 1, uint8 [G, H, W]."""

    per_pixel = True
    dtype = np.uint8

    def transformed(self, spatial: SpatialTransform) -> Field:
        """Transform the bitmaps; pixels from outside of the image are 0."""
        return replace(self, array=spatial.planes(self.array, self.fill))


class LabelMap(Field):
    """One label a pixel, uint8 [H, W], 255 = ignore."""

    per_pixel = True
    fill = IGNORE
    dtype = np.uint8

    def transformed(self, spatial: SpatialTransform) -> Field:
        """Transform the map; pixels from outside of the image are ignored."""
        return replace(self, array=spatial.planes(self.array, self.fill))


@dataclass(frozen=True, eq=False)
class Keypoints(ObjectField):
    """Keypoints, float32 [G, J, 3]: x, y and visibility (0 not labelled, 1 labelled but hidden, 2 visible).

    As in COCO's files x and y are indices of pixels: (0, 0) is the centre of the first pixel. A keypoint that leaves
    the image becomes (0, 0, 0), as one that is not labelled.

    Attributes:
        mirrored: for each of the J keypoints the index of the one that takes its place in a mirror image (the right
            eye for the left one), see :func:`mirrored_keypoints`; empty where no two exchange places.
    """

    mirrored: tuple[int, ...] = ()
    dtype = np.float32

    def transformed(self, spatial: SpatialTransform) -> Field:
        """Map the keypoints and, in a mirror image, exchange left and right."""
        height, width = spatial.size
        moved = self.array.astype(np.float32)
        moved[..., :2] = spatial.points(moved[..., :2] + np.float32(0.5)) - np.float32(0.5)
        inside = (moved[..., :2] >= -0.5) & (moved[..., :2] <= np.array([width, height], np.float32) - 0.5)
        moved[(moved[..., 2] == 0) | ~inside.all(axis=-1)] = 0
        if spatial.mirrors and self.mirrored:
            moved = moved[:, list(self.mirrored)]
        return replace(self, array=moved)


def mirrored_keypoints(names: Iterable[str]) -> tuple[int, ...]:
    """Return ``Keypoints.mirrored`` for keypoints of these names.

    Two keypoints exchange places if their names differ in ``left`` and ``right`` alone (``left_eye``, ``right_eye``).
    """
    lowered = [name.casefold() for name in names]
    places = {name: place for place, name in enumerate(lowered)}

    def partner(name: str) -> int:
        swapped = (name.replace(side, opposite) for side, opposite in _SIDES if side in name)
        return places[next((other for other in swapped if other in places), name)]

    return tuple(map(partner, lowered))


_SIDES = (("left", "right"), ("right", "left"))
