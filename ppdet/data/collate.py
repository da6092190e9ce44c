"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from deploy.common.pixels import pad_to, round_up
from ppdet.core.config.ranges import Interval
from ppdet.core.workspace import register
from ppdet.data.transform.functional.masks import IGNORE
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

__all__ = ["PadBatch", "collate"]


@register
class PadBatch:
    """How a batch is padded.

    Args:
        pad_to_stride: height and width become multiples of this; -1, 0 or 1 pads to the largest image only.
    """

    def __init__(self, pad_to_stride: Annotated[int, Interval(-1, 4096)] = 32) -> None:
        self.pad_to_stride = max(1, pad_to_stride)

    def size(self, samples: Sequence[Sample]) -> tuple[int, int]:
        """Common size (h, w) of a batch."""
        height = max(sample.im_shape[0] for sample in samples)
        width = max(sample.im_shape[1] for sample in samples)
        return round_up(height, self.pad_to_stride), round_up(width, self.pad_to_stride)


def collate(samples: Sequence[Sample], padding: PadBatch, training: bool) -> dict[str, Any]:
    """Put samples into arrays.

    Images are padded with zeros (after normalising), masks with 0, label maps with 255, on the right and at the
    bottom. Ground truth has G slots an image, the largest number in the batch, at least one.

    Returns:
        ``image`` [B, 3, H, W] float32, ``im_shape`` [B, 2] (h, w), ``scale_factor`` [B, 2] (y, x) float32,
        ``im_id`` [B] and ``orig_size`` [B, 2] (h, w) int64, ``im_path``; in training also ``gt_bbox`` [B, G, 4]
        float32, ``gt_class`` [B, G] int64, ``gt_valid`` [B, G] float32 and, where the samples have them, ``gt_segm``
        [B, G, H, W] and ``semantic`` [B, H, W] uint8.

    Raises:
        UserError: the transforms have not made float32 [3, H, W] of the images.
    """
    for sample in samples:
        if sample.pixels().shape != (3, *sample.im_shape) or sample.pixels().dtype != np.float32:
            raise UserError("sample_transforms must end with NormalizeImage and Permute")
    height, width = padding.size(samples)
    batch: dict[str, Any] = {
        "image": np.stack([pad_to(sample.pixels(), (height, width), 0.0) for sample in samples]),
        "im_shape": np.array([sample.im_shape for sample in samples], np.float32),
        "scale_factor": np.array([sample.scale_factor for sample in samples], np.float32),
        "im_id": np.array([sample.image_id for sample in samples], np.int64),
        "orig_size": np.array([sample.orig_size for sample in samples], np.int64),
        "im_path": [sample.image_path for sample in samples],
    }
    if not training:
        return batch
    slots = max(1, max(len(sample.boxes) for sample in samples))
    count = len(samples)
    batch["gt_bbox"] = np.zeros((count, slots, 4), np.float32)
    batch["gt_class"] = np.zeros((count, slots), np.int64)
    batch["gt_valid"] = np.zeros((count, slots), np.float32)
    if samples[0].masks is not None:
        batch["gt_segm"] = np.zeros((count, slots, height, width), np.uint8)
    if samples[0].semantic is not None:
        batch["semantic"] = np.full((count, height, width), IGNORE, np.uint8)
    for place, sample in enumerate(samples):
        objects = len(sample.boxes)
        batch["gt_bbox"][place, :objects] = sample.boxes
        batch["gt_class"][place, :objects] = sample.labels
        batch["gt_valid"][place, :objects] = 1
        h, w = sample.im_shape
        if sample.masks is not None:
            batch["gt_segm"][place, :objects, :h, :w] = sample.masks
        if sample.semantic is not None:
            batch["semantic"][place, :h, :w] = sample.semantic
    return batch
