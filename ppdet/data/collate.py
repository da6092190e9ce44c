"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from deploy.common.pixels import pad_to, round_up
from ppdet.core.config.ranges import Interval
from ppdet.core.workspace import register
from ppdet.structures.fields import Field, is_target
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

__all__ = ["PadBatch", "collate"]

_RESERVED = (
    *("image", "im_shape", "scale_factor", "im_id", "orig_size", "im_path", "object_valid"),
    *("gt_bbox", "gt_class", "gt_valid", "gt_segm", "semantic"),
    *("failure", "replaced", "skipped"),
)
"""Keys that batches use themselves, the last three for the loader's messages."""


@register
class PadBatch:
    """How a batch is padded.

    Args:
        pad_to_stride: height and width become multiples of this; -1, 0 or 1 pads to the largest image only.
    """

    def __init__(self, pad_to_stride: Annotated[int, Interval(-1, 4096)] = 32) -> None:
        self.pad_to_stride = max(1, pad_to_stride)

    def size(self, samples: Sequence[Sample]) -> tuple[int, int]:
        """Return the common size (h, w) of a batch."""
        height = max(sample.im_shape[0] for sample in samples)
        width = max(sample.im_shape[1] for sample in samples)
        return round_up(height, self.pad_to_stride), round_up(width, self.pad_to_stride)


def collate(samples: Sequence[Sample], padding: PadBatch, training: bool) -> dict[str, Any]:
    """Put samples into arrays.

    Images are padded with zeros (after normalising), masks with 0, label maps with 255, on the right and at the
    bottom. Per-object fields have G slots for each image, the largest number of objects in the batch, at least one.
    A batch for prediction carries those fields of ``Sample.extra`` that are no ground truth
    (:func:`~ppdet.structures.fields.is_target`), a training batch all fields.

    Returns:
        ``image`` [B, 3, H, W] float32, ``im_shape`` [B, 2] (h, w), ``scale_factor`` [B, 2] (y, x) float32,
        ``im_id`` [B] and ``orig_size`` [B, 2] (h, w) int64, ``im_path`` (list of str); in training also ``gt_bbox``
        [B, G, 4] float32, ``gt_class`` [B, G] int64, ``gt_valid`` [B, G] float32 and, if the samples have them,
        ``gt_segm`` [B, G, H, W] and ``semantic`` [B, H, W] uint8; the fields of ``Sample.extra`` under their keys, and
        with per-object inputs ``object_valid`` [B, G] float32.

    Raises:
        UserError: the transforms have not made float32 [3, H, W] of the images, or the fields of the samples do not
            agree with each other.
    """
    for sample in samples:
        if sample.pixels().shape != (3, *sample.im_shape) or sample.pixels().dtype != np.float32:
            raise UserError("sample_transforms must end with NormalizeImage and Permute")
    size = padding.size(samples)
    batch = _images(samples, size)
    fields = [
        {key: field for key, field in sample.fields().items() if training or not is_target(key)} for sample in samples
    ]
    if not any(fields):
        return batch
    counts = _object_counts(samples, fields)
    slots = max(1, *counts)
    valid = (np.arange(slots) < np.array(counts)[:, None]).astype(np.float32)
    if training:
        batch["gt_valid"] = valid
    if any(field.per_object and not is_target(key) for key, field in fields[0].items()):
        batch["object_valid"] = valid
    for key in fields[0]:
        batch[key] = _stacked(key, samples, [row[key] for row in fields], slots, size)
    return batch


def _images(samples: Sequence[Sample], size: tuple[int, int]) -> dict[str, Any]:
    """Return the images of a batch, and their sizes, scale factors and ids."""
    return {
        "image": np.stack([pad_to(sample.pixels(), size, 0.0) for sample in samples]),
        "im_shape": np.array([sample.im_shape for sample in samples], np.float32),
        "scale_factor": np.array([sample.scale_factor for sample in samples], np.float32),
        "im_id": np.array([sample.image_id for sample in samples], np.int64),
        "orig_size": np.array([sample.orig_size for sample in samples], np.int64),
        "im_path": [sample.image_path for sample in samples],
    }


def _object_counts(samples: Sequence[Sample], fields: Sequence[Mapping[str, Field]]) -> list[int]:
    """Return the number of objects of each sample.

    Raises:
        UserError: a field has a key that is taken, the samples have different fields, or the fields of one sample
            different numbers of objects.
    """
    counts = []
    for sample, row in zip(samples, fields):
        for key in sample.extra.keys() & set(_RESERVED):
            raise UserError(f"the dataset adds a field '{key}', a key that batches use themselves: rename the field")
        for key in row.keys() ^ fields[0].keys():
            raise UserError(
                f"{sample.image_path} and {samples[0].image_path} are in one batch, but only one of them has the field "
                f"'{key}': the dataset must supply it for all images or for none"
            )
        rows = {key: len(field.array) for key, field in row.items() if field.per_object}
        if len(set(rows.values())) > 1:
            listed = ", ".join(f"{count} in '{key}'" for key, count in rows.items())
            raise UserError(f"the fields of {sample.image_path} have different numbers of objects: {listed}")
        counts.append(next(iter(rows.values()), 0))
    return counts


def _stacked(
    key: str, samples: Sequence[Sample], fields: Sequence[Field], slots: int, size: tuple[int, int]
) -> np.ndarray:
    """Return one field of all samples, [B, ...].

    Raises:
        UserError: no numbers, or arrays that do not fit each other or their images.
    """
    first = fields[0]
    dtype = np.dtype(first.dtype or first.array.dtype)
    shape = list(first.array.shape)
    for sample, field in zip(samples, fields):
        expected = list(shape)
        if field.per_object:
            expected[0] = len(field.array)
        if field.per_pixel:
            expected[-2:] = sample.im_shape
        if list(field.array.shape) != expected or field.array.dtype.kind not in "biuf":
            raise UserError(
                f"the field '{key}' of {sample.image_path} is {field.array.dtype} {list(field.array.shape)}, expected "
                f"numbers of the shape {expected}: arrays of one batch may differ in the number of objects and in the "
                "size of the image only"
            )
    if first.per_object:
        shape[0] = slots
    if first.per_pixel:
        shape[-2:] = size
    stacked = (
        np.full((len(fields), *shape), first.fill, dtype) if first.fill else np.zeros((len(fields), *shape), dtype)
    )
    for place, field in enumerate(fields):
        part: tuple[Any, ...] = (place, *(slice(length) for length in field.array.shape))
        stacked[part] = field.array
    return stacked
