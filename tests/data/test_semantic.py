"""The three kinds of semantic map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from ppdet.core.workspace import build_op
from ppdet.data.source import COCODataSet
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

Add = Callable[..., dict[str, Any]]


def decode(data: COCODataSet, index: int = 0) -> Sample:
    return build_op("Decode")(data[index], np.random.default_rng(0))


@pytest.fixture
def filled(coco: Any, add_thing: Add) -> Any:
    """Create an image with a large object of category 7, a small one of 2 on top, and a crowd of 5 below both."""
    coco.image(1)
    crowd = {"size": [40, 60], "counts": [0, 20 * 40, 40 * 40]}  # the left 20 columns
    return coco.add(
        add_thing(1, 1, 2, [12, 10, 4, 4]),
        add_thing(2, 1, 7, [10, 5, 20, 20]),
        add_thing(3, 1, 5, [0, 0, 20, 40], iscrowd=1, segmentation=crowd),
    )


def test_no_map(filled: Any) -> None:
    assert decode(COCODataSet(**filled.arguments())).semantic is None


@pytest.mark.parametrize(
    ("background", "labels", "large", "small", "rest", "classes"),
    [
        ("ignore", "class", 2, 0, 255, 3),
        ("class", "class", 2, 0, 3, 4),
        ("ignore", "category_id", 6, 1, 255, 7),
        ("class", "category_id", 6, 1, 7, 8),
    ],
)
def test_map_of_instances(
    filled: Any, background: str, labels: str, large: int, small: int, rest: int, classes: int
) -> None:
    expected = np.full((40, 60), rest, np.uint8)
    expected[:, :20] = 255
    expected[5:25, 10:30] = large
    expected[10:14, 12:16] = small
    settings = {"kind": "instances", "background": background, "labels": labels}
    sample = decode(COCODataSet(**filled.arguments(), semantic=settings, semantic_num_classes=classes))
    assert sample.semantic is not None and sample.semantic.dtype == np.uint8
    np.testing.assert_array_equal(sample.semantic, expected)
    with pytest.raises(UserError, match=f"semantic_num_classes is {classes - 1}: set it to {classes}"):
        COCODataSet(**filled.arguments(), semantic=settings, semantic_num_classes=classes - 1)


def test_map_of_instances_without_masks_for_the_model(filled: Any) -> None:
    arguments = {**filled.arguments(), "data_fields": ["image", "gt_bbox", "gt_class"]}
    sample = decode(COCODataSet(**arguments, semantic={"kind": "instances"}))
    assert sample.masks is None and sample.semantic is not None
    assert (sample.semantic == 2).sum() == 20 * 20 - 16
    assert len(sample.boxes) == 2, "the crowd leaves once the map is made"


def test_map_of_an_image_without_objects(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.image(2)
    coco.add(add_thing(1, 1, 2, [1, 1, 0.5, 9]), add_thing(2, 2, 2, [1, 1, 9, 9]))
    sample = decode(COCODataSet(**coco.arguments(), semantic={"kind": "instances", "background": "class"}))
    assert sample.semantic is not None and (sample.semantic == 3).all()


def test_map_of_png(filled: Any) -> None:
    folder = filled.folder / "stuff" / "any"
    folder.mkdir(parents=True)
    labels = np.arange(2400).reshape(40, 60) % 9
    labels[0, 0] = 255
    cv2.imwrite(str(folder / "001_labels.png"), labels.astype(np.uint8))
    settings = {"kind": "png", "dir": "stuff/any", "suffix": "_labels.png"}
    sample = decode(COCODataSet(**filled.arguments(), semantic=settings, semantic_num_classes=9))
    np.testing.assert_array_equal(sample.semantic, labels)
    with pytest.raises(UserError, match=r"001_labels\.png holds the label 8: labels must be in 0\.\.7"):
        decode(COCODataSet(**filled.arguments(), semantic=settings, semantic_num_classes=8))


def test_missing_png_is_found_at_start(filled: Any) -> None:
    (filled.folder / "stuff").mkdir()
    with pytest.raises(UserError, match=r"stuff/001\.png of image 001\.png is missing \(1 of 1 maps are missing\)"):
        COCODataSet(**filled.arguments(), semantic={"kind": "png", "dir": "stuff"})
    with pytest.raises(UserError, match="nowhere does not exist: .*make_semantic_maps"):
        COCODataSet(**filled.arguments(), semantic={"kind": "png", "dir": "nowhere"})


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "colour"},
        {"kind": "png"},
        {"kind": "instances", "background": "black"},
        {"kind": "instances", "labels": "name"},
        {"kind": "instances", "backgrund": "class"},
        {},
    ],
)
def test_unknown_settings(filled: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="semantic"):
        COCODataSet(**filled.arguments(), semantic=settings)
