"""Samples of different sizes and numbers of objects in one batch."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet.data.collate import PadBatch, collate
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError


def sample_of(number: int, size: tuple[int, int], objects: int, masks: bool = True, semantic: bool = True) -> Sample:
    return Sample(
        f"{number}.jpg",
        number,
        (size[0] * 2, size[1] * 4),
        image=np.full((3, *size), number, np.float32),
        boxes=np.full((objects, 4), number, np.float32),
        labels=np.full(objects, number, np.int64),
        is_crowd=np.zeros(objects, np.uint8),
        masks=np.ones((objects, *size), np.uint8) if masks else None,
        semantic=np.full(size, number, np.uint8) if semantic else None,
        im_shape=size,
        scale_factor=(0.5, 0.25),
    )


def test_batch_of_two() -> None:
    batch = collate([sample_of(5, (33, 20), 2), sample_of(6, (10, 40), 1)], PadBatch(32), training=True)
    assert batch["image"].shape == (2, 3, 64, 64) and batch["image"].dtype == np.float32
    assert (batch["image"][0, :, :33, :20] == 5).all() and batch["image"][0].sum() == 3 * 33 * 20 * 5
    assert batch["im_shape"].tolist() == [[33, 20], [10, 40]] and batch["im_shape"].dtype == np.float32
    assert batch["scale_factor"].tolist() == [[0.5, 0.25]] * 2
    assert batch["orig_size"].tolist() == [[66, 80], [20, 160]] and batch["orig_size"].dtype == np.int64
    assert batch["im_id"].tolist() == [5, 6] and batch["im_path"] == ["5.jpg", "6.jpg"]
    assert batch["gt_bbox"].tolist() == [[[5.0] * 4, [5.0] * 4], [[6.0] * 4, [0.0] * 4]]
    assert batch["gt_class"].tolist() == [[5, 5], [6, 0]]
    assert batch["gt_valid"].tolist() == [[1, 1], [1, 0]]
    assert batch["gt_segm"].shape == (2, 2, 64, 64) and batch["gt_segm"].dtype == np.uint8
    assert batch["gt_segm"][0, 1].sum() == 33 * 20 and batch["gt_segm"][1].sum() == 10 * 40
    assert (batch["semantic"][1, :10, :40] == 6).all()
    assert (batch["semantic"] == 255).sum() == 2 * 64 * 64 - 33 * 20 - 10 * 40, "padding is ignored, not label 0"


def test_no_objects_leave_one_empty_slot() -> None:
    batch = collate([sample_of(1, (32, 32), 0)], PadBatch(32), training=True)
    assert batch["gt_bbox"].shape == (1, 1, 4) and batch["gt_valid"].tolist() == [[0.0]]
    assert batch["gt_segm"].shape == (1, 1, 32, 32) and not batch["gt_segm"].any()


def test_keys_follow_what_the_samples_have() -> None:
    bare = collate([sample_of(1, (32, 32), 1, masks=False, semantic=False)], PadBatch(32), training=True)
    assert "gt_segm" not in bare and "semantic" not in bare
    assert "gt_bbox" not in collate([sample_of(1, (32, 32), 1)], PadBatch(32), training=False)


@pytest.mark.parametrize(("stride", "expected"), [(0, (33, 40)), (1, (33, 40)), (16, (48, 48)), (32, (64, 64))])
def test_stride(stride: int, expected: tuple[int, int]) -> None:
    batch = collate([sample_of(1, (33, 20), 0), sample_of(2, (10, 40), 0)], PadBatch(stride), training=False)
    assert batch["image"].shape[2:] == expected


def test_transforms_that_end_too_early() -> None:
    sample = sample_of(1, (8, 9), 0)
    sample.image = np.zeros((8, 9, 3), np.float32)
    with pytest.raises(UserError, match="end with NormalizeImage and Permute"):
        collate([sample], PadBatch(), training=False)
    sample.image = np.zeros((3, 8, 9), np.uint8)
    with pytest.raises(UserError, match="end with NormalizeImage and Permute"):
        collate([sample], PadBatch(), training=False)
