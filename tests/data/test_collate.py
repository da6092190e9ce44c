"""Samples of different sizes and numbers of objects in one batch."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet.data import batch_maker
from ppdet.data.collate import _RESERVED, PadBatch, collate
from ppdet.structures.fields import Field, ImageField, LabelMap, ObjectField
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


def with_fields(objects: int, **fields: Field) -> Sample:
    sample = sample_of(objects, (16, 24), objects)
    sample.extra.update(fields)
    return sample


def points(objects: int) -> ObjectField:
    return ObjectField(np.full((objects, 17, 3), objects, np.float32))


def test_fields_of_the_dataset() -> None:
    prompts = [ImageField(np.array([value, 1], np.float32)) for value in (5, 6)]
    samples = [with_fields(count, gt_points=points(count), prompt=prompts[count]) for count in (0, 1)]
    samples.append(with_fields(3, gt_points=points(3), prompt=prompts[0]))
    batch = collate(samples, PadBatch(32), training=True)
    assert batch["gt_points"].shape == (3, 3, 17, 3) and batch["gt_points"].dtype == np.float32
    assert batch["gt_points"][..., 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [3, 3, 3]]
    assert batch["gt_valid"].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    assert batch["prompt"].tolist() == [[5, 1], [6, 1], [5, 1]]
    assert "object_valid" not in batch
    predicted = collate(samples, PadBatch(32), training=False)
    assert predicted["prompt"].tolist() == [[5, 1], [6, 1], [5, 1]]
    assert not [key for key in predicted if key.startswith("gt_")] and "semantic" not in predicted


def test_inputs_of_each_object() -> None:
    samples = [sample_of(count, (16, 24), 0) for count in range(3)]
    for count, sample in enumerate(samples):
        sample.extra["points"] = points(count)
    batch = collate(samples, PadBatch(32), training=False)
    assert batch["points"].shape == (3, 2, 17, 3)
    assert batch["object_valid"].tolist() == [[0, 0], [1, 0], [1, 1]]


def test_inputs_of_each_pixel_and_single_numbers() -> None:
    samples = [sample_of(1, (16, 24), 0), sample_of(2, (20, 10), 0)]
    for sample in samples:
        sample.extra["area"] = LabelMap(np.zeros(sample.im_shape, np.uint8))
        sample.extra["age"] = ImageField(np.array(sample.image_id))
    batch = collate(samples, PadBatch(32), training=False)
    assert batch["area"].shape == (2, 32, 32) and (batch["area"] == 0).sum() == 16 * 24 + 20 * 10
    assert batch["age"].tolist() == [1, 2] and batch["age"].dtype == np.int64


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"gt_a": points(1)}, {}, r"only one of them has the field 'gt_a'"),
        ({"gt_a": points(2)}, {"gt_a": points(1)}, r"1\.jpg have different numbers of objects: 1 in 'gt_bbox'.* 2 in"),
        ({"a": ImageField(np.zeros(2))}, {"a": ImageField(np.zeros(3))}, r"'a' of 1\.jpg is float64 \[3\].* \[2\]"),
        ({"a": LabelMap(np.zeros((9, 9)))}, {"a": LabelMap(np.zeros((16, 24)))}, r"expected .* \[16, 24\]"),
        ({"a": ImageField(np.array("x"))}, {"a": ImageField(np.array("y"))}, r"expected numbers"),
        ({"im_id": points(1)}, {"im_id": points(1)}, r"adds a field 'im_id'"),
    ],
)
def test_fields_that_do_not_fit(first: dict[str, Field], second: dict[str, Field], message: str) -> None:
    with pytest.raises(UserError, match=message):
        collate([with_fields(1, **first), with_fields(1, **second)], PadBatch(32), training=True)


def test_reserved_keys_are_those_that_batches_use() -> None:
    samples = [sample_of(1, (16, 24), 1)]
    own = {batch_maker.FAILURE, batch_maker.REPLACED, batch_maker.SKIPPED, "object_valid"}
    assert set(_RESERVED) == own | set(collate(samples, PadBatch(32), training=True))
