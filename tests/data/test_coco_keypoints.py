"""COCO keypoints from the annotation file to a batch, and a dataset with a target and an input of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from ppdet.core.workspace import build_op
from ppdet.data.collate import PadBatch
from ppdet.data.loader import Loader
from ppdet.data.sampler import EvalBatchSampler
from ppdet.data.source import COCODataSet
from ppdet.structures.batch import Batch
from ppdet.structures.fields import Keypoints
from ppdet.utils.errors import UserError
from tests.data.batches import numbers, same, train
from tests.data.own_fields import Prompted

NAMES = ["nose", "left_eye", "right_eye"]
FIELDS = ["image", "gt_bbox", "gt_class", "gt_poly", "gt_keypoint"]


@pytest.fixture
def persons(coco: Any, add_thing: Callable[..., dict[str, Any]]) -> Any:
    """Three images of one class: two persons and a crowd, nobody, one person without keypoints."""
    coco.content["categories"] = [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2]]}]
    for image in (1, 2, 3):
        coco.image(image)
    coco.add(
        add_thing(10, 1, 1, [4, 4, 8, 8], iscrowd=1, keypoints=[9, 9, 2] * 3),
        add_thing(11, 1, 1, [10, 10, 20, 20], keypoints=[12, 14, 2, 20, 11, 1, 0, 0, 0]),
        add_thing(12, 1, 1, [30, 5, 20, 30], keypoints=[59, 39, 2, 31, 6, 2, 33.5, 7, 2]),
        add_thing(13, 3, 1, [1, 1, 30, 30], num_keypoints=0),
    )
    return coco


def dataset(persons: Any, **more: Any) -> COCODataSet:
    return COCODataSet(**{**persons.arguments(allow_empty=True, **more), "data_fields": FIELDS})


def decoded(data: COCODataSet, index: int, *transforms: Any) -> Any:
    sample = data[index]
    for entry in ("Decode", *transforms):
        sample = build_op(entry)(sample, np.random.default_rng(0))
    return sample


def test_keypoints_as_the_file_has_them(persons: Any) -> None:
    data = dataset(persons)
    assert data.training_fields == {"boxes", "masks", "gt_keypoint"}
    field = decoded(data, 0).extra["gt_keypoint"]
    assert field.mirrored == (0, 2, 1)
    assert field.array.tolist() == [
        [[12, 14, 2], [20, 11, 1], [0, 0, 0]],
        [[59, 39, 2], [31, 6, 2], [33.5, 7, 2]],
    ], "the crowd region left with its row"
    assert decoded(data, 1).extra["gt_keypoint"].array.shape == (0, 3, 3)
    assert not decoded(data, 2).extra["gt_keypoint"].array.any()
    crowd = decoded(dataset(persons, load_crowd=True), 0).extra["gt_keypoint"].array
    assert crowd.shape == (3, 3, 3) and crowd[0].tolist() == [[9, 9, 2]] * 3
    plain = COCODataSet(**persons.arguments())
    assert plain[0].extra == {} and plain.training_fields == {"boxes", "masks"}


def test_flipped_and_resized(persons: Any) -> None:
    sample = decoded(dataset(persons), 0, {"RandomFlip": {"prob": 1.0}}, {"Resize": {"target_size": [80, 120]}})
    assert sample.im_shape == (80, 120)
    # 60 pixels wide: x = 59 is mirrored to 0; twice the size puts the centre of pixel 0 at 0.5
    assert sample.extra["gt_keypoint"].array.tolist() == [
        [[94.5, 28.5, 2], [0, 0, 0], [78.5, 22.5, 1]],
        [[0.5, 78.5, 2], [51.5, 14.5, 2], [56.5, 12.5, 2]],
    ]
    box = sample.boxes[1]
    assert box.tolist() == [20, 10, 60, 70] and (sample.extra["gt_keypoint"].array[1, 1:, 0] < box[2]).all()


def test_a_batch_of_different_numbers_of_objects(persons: Any) -> None:
    for workers in (0, 1):
        loader = Loader(**_arguments(dataset(persons), workers))
        batches = [numbers(batch) for batch in loader]
        found = batches[0]["gt_keypoint"]
        assert found.shape == (3, 2, 3, 3) and found.dtype == np.float32
        assert found[:, :, 0, 2].tolist() == [[2, 2], [0, 0], [0, 0]]
        assert batches[0]["gt_valid"].tolist() == [[1, 1], [0, 0], [1, 0]]
        assert found[0, 1, 2].tolist() == [33.5, 7, 2]


def _arguments(data: Any, workers: int, training: bool = True) -> dict[str, Any]:
    steps = [build_op(entry) for entry in ("Decode", "NormalizeImage", "Permute")]
    return {
        "dataset": data,
        "sampler": EvalBatchSampler(len(data), 3),
        "transforms": steps,
        "padding": PadBatch(32),
        "training": training,
        "workers": workers,
        "use_shared_memory": True,
    }


def test_a_target_and_an_input_of_ones_own(persons: Any) -> None:
    """Nothing but the dataset's own module knows of the two fields; worker processes hand them over."""
    arguments = {**persons.arguments(allow_empty=True), "data_fields": FIELDS}
    data = Prompted(**arguments)
    assert data.training_fields == {"boxes", "masks", "gt_keypoint", "gt_identity"}
    alone = [numbers(batch) for batch in train(data, 0)]
    assert same(alone, [numbers(batch) for batch in train(data, 2)])
    assert same(alone, [numbers(batch) for batch in train(data, 2, use_shared_memory=False)])
    batch = next(iter(Loader(**_arguments(data, 1))))
    assert batch["gt_identity"].tolist() == [[11, 12], [0, 0], [13, 0]]
    model_input = Batch.from_inputs(batch, training=True)
    assert model_input.targets is not None and set(model_input.targets.extra) == {"gt_keypoint", "gt_identity"}
    assert model_input.extra["prompt"].tolist() == [[1, 0.5], [2, 0.5], [3, 0.5]]
    predicted = Prompted(**{**arguments, "data_fields": ["image"]})
    batch = next(iter(Loader(**_arguments(predicted, 1, training=False))))
    assert list(Batch.from_inputs(batch).extra) == ["prompt"] and "gt_identity" not in batch
    assert batch["prompt"].tolist() == [[1, 0.5], [2, 0.5], [3, 0.5]]


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        ([1, 2, 2] * 2, r"^annotation 11 in .*annotations\.json has keypoints of 6 numbers, expected 9: x, y and"),
        ([[1, 2, 2]] * 9, r"^annotation 11 in .* has \[1, 2, 2\] among its keypoints, expected x, y and visibility"),
        ([1, 2, None] * 3, r"^annotation 11 in .* has None among its keypoints"),
        ([float("nan"), 2, 2] * 3, r"^annotation 11 in .* has nan among its keypoints"),
        ([1, 2, 0.87] * 3, r"^annotation 11 in .* has a keypoint of visibility 0\.87, expected 0 \(not labelled\), 1"),
        ({"nose": [1, 2, 2]}, r"^annotation 11 in .* has keypoints of \{'nose': \[1, 2, 2\]\}, expected 9"),
    ],
)
def test_wrong_keypoints_are_named(persons: Any, keypoints: Any, message: str) -> None:
    persons.content["annotations"][1]["keypoints"] = keypoints
    with pytest.raises(UserError, match=message):
        dataset(persons)
    COCODataSet(**persons.arguments())  # nobody asks for them


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{}], r"no category of .*annotations\.json has 'keypoints'.* leave 'gt_keypoint' out"),
        ([{"keypoints": ["nose", "nose"]}], r"category 1 in .* has the keypoints \['nose', 'nose'\]"),
        ([{"keypoints": 17}], r"category 1 in .* has the keypoints 17, expected a list"),
        ([{"keypoints": NAMES}, {"keypoints": ["tail"]}], r"categories 1 and 2 in .* have different keypoints"),
    ],
)
def test_wrong_names_of_keypoints(persons: Any, categories: list[Mapping[str, Any]], message: str) -> None:
    persons.content["categories"] = [
        {"id": place, "name": f"class {place}", **category} for place, category in enumerate(categories, start=1)
    ]
    with pytest.raises(UserError, match=message):
        dataset(persons)


def test_a_class_without_keypoints_beside_one_with(persons: Any, add_thing: Callable[..., dict[str, Any]]) -> None:
    persons.content["categories"].append({"id": 2, "name": "ball"})
    persons.add(add_thing(14, 2, 2, [1, 1, 9, 9], keypoints=[]))
    field = decoded(dataset(persons), 1).extra["gt_keypoint"]
    assert isinstance(field, Keypoints) and field.array.tolist() == [[[0, 0, 0]] * 3]
