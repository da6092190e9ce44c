"""COCODataSet and ImageFolder: loaded objects, dropped objects and their counts, and error messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppdet.core.workspace import create
from ppdet.data.source import COCODataSet, ImageFolder
from ppdet.data.source.records import PackedRecords
from ppdet.utils.errors import UserError

Add = Callable[..., dict[str, Any]]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    logger = logging.getLogger("ppdet")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_classes_follow_the_order_of_ids(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.add(add_thing(1, 1, 7, [1, 2, 10, 5]), add_thing(2, 1, 2, [3, 3, 4, 4]), add_thing(3, 1, 5, [0, 0, 2, 2]))
    data = COCODataSet(**coco.arguments(), num_classes=3)
    sample = data[0]
    assert (data.category_ids, data.class_names) == ([2, 5, 7], ["two", "five", "seven"])
    assert sample.labels.tolist() == [2, 0, 1]
    assert sample.boxes.tolist() == [[1, 2, 11, 7], [3, 3, 7, 7], [0, 0, 2, 2]]
    assert (sample.boxes.dtype, sample.labels.dtype, sample.is_crowd.dtype) == (np.float32, np.int64, np.uint8)
    assert (sample.image_id, sample.orig_size) == (1, (40, 60))
    assert Path(sample.image_path) == coco.folder / "images" / "001.png"


def test_dropped_objects_are_counted(coco: Any, add_thing: Add, log: Any) -> None:
    coco.image(1)
    coco.add(
        add_thing(1, 1, 2, [1, 2, 10, 5]),
        add_thing(2, 1, 2, [3, 3, 0.9, 4]),
        add_thing(3, 1, 2, [3, 3, 4, 0.5]),
        add_thing(4, 1, 2, [3, 3, 4, 4], area=0),
        add_thing(5, 1, 2, [60, 3, 4, 4]),
        add_thing(6, 1, 2, [-5, 3, 5, 4]),
        add_thing(7, 1, 2, [3, 3, 4, 4], segmentation=[[1, 1, 2, 2]]),
        add_thing(8, 1, 5, [57, 38, 9, 9]),
        add_thing(9, 1, 5, [5, 5, 1, 1]),
    )
    assert COCODataSet(**coco.arguments())[0].boxes.tolist() == [[1, 2, 11, 7], [57, 38, 66, 47], [5, 5, 6, 6]]
    text = " ".join(record.getMessage() for record in log.records)
    assert "3 objects, 0 crowd regions" in text
    assert "2 outside of the image, 2 under one pixel, 1 without a valid outline, 1 without area" in text


def test_a_box_is_in_the_image_if_it_is_in_float32(coco: Any, add_thing: Add, log: Any) -> None:
    """Boxes are used in float32, in which 59.999999 equals the border of an image with a width of 60."""
    coco.image(1)
    coco.add(
        add_thing(1, 1, 2, [59.999999, 3, 4, 4]),
        add_thing(2, 1, 2, [3, 39.9999999, 4, 4]),
        add_thing(3, 1, 2, [-5, 3, 5.0000001, 4]),
        add_thing(4, 1, 2, [59.99999, 3, 4, 4]),
    )
    (box,) = COCODataSet(**coco.arguments())[0].boxes
    assert box[0] < 60
    assert "3 outside of the image" in " ".join(record.getMessage() for record in log.records)


def test_boxes_alone_need_no_outline(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.add(add_thing(7, 1, 2, [3, 3, 4, 4], segmentation=[]))
    fields = {**coco.arguments(), "data_fields": ["image", "gt_bbox", "gt_class"]}
    sample = COCODataSet(**fields)[0]
    assert len(sample.boxes) == 1 and sample.segmentations is None


def test_images_that_do_not_train(coco: Any, add_thing: Add, log: Any) -> None:
    coco.image(1)
    coco.image(2)  # no annotation
    coco.image(3, height=31)  # short
    coco.image(4)  # only a crowd: kept, without objects
    coco.image(5, height=32)  # just long enough
    coco.image(6)  # its only object is dropped: kept as well
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    coco.add(
        add_thing(1, 1, 2, [1, 1, 9, 9]),
        add_thing(2, 3, 2, [1, 1, 9, 9]),
        add_thing(3, 4, 2, [0, 0, 60, 40], iscrowd=1, segmentation=crowd),
        add_thing(4, 5, 2, [1, 1, 9, 9]),
        add_thing(5, 6, 2, [1, 1, 0.5, 9]),
    )
    data = COCODataSet(**coco.arguments())
    assert [image["id"] for image in data.images] == [1, 4, 5, 6]
    assert data[1].is_crowd.tolist() == [1]
    assert len(data[3].boxes) == 0 and data[3].segmentations == []
    text = " ".join(record.getMessage() for record in log.records)
    assert "4 images to train on; left out: 1 with a side under 32 pixels, 1 without annotation" in text
    everything = COCODataSet(**coco.arguments(), allow_empty=True)
    assert [image["id"] for image in everything.images] == [1, 2, 4, 5, 6]
    assert len(COCODataSet(**coco.arguments(), allow_empty=True, empty_ratio=0.0)) == 4
    assert len(COCODataSet(**coco.arguments(training=False))) == 6
    assert len(COCODataSet(**coco.arguments(), sample_num=2)) == 2


def test_load_crowd_makes_objects_of_crowds(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.add(add_thing(3, 1, 2, [0, 0, 60, 40], iscrowd=1), add_thing(4, 1, 2, [1, 1, 9, 9]))
    assert COCODataSet(**coco.arguments())[0].is_crowd.tolist() == [1, 0]
    assert COCODataSet(**coco.arguments(), load_crowd=True)[0].is_crowd.tolist() == [0, 0]


def test_evaluation_needs_no_annotations(coco: Any) -> None:
    coco.image(1)
    del coco.content["annotations"]
    data = COCODataSet(**coco.arguments(training=False))
    assert not data.has_annotations and len(data[0].boxes) == 0
    with pytest.raises(UserError, match="nothing to train on"):
        COCODataSet(**coco.arguments())


def test_orientation(coco: Any, add_thing: Add) -> None:
    for number, (height, width) in enumerate([(40, 60), (60, 40), (50, 50)]):
        coco.image(number, height, width)
        coco.add(add_thing(number, number, 2, [1, 1, 9, 9]))
    data = COCODataSet(**coco.arguments())
    assert [data.is_landscape(index) for index in range(3)] == [True, False, False]


BROKEN = [
    ({"image_id": 99}, "annotation 1 in .* belongs to image 99"),
    ({"category_id": 3}, "annotation 1 in .* has category 3"),
    ({"category_id": [2]}, "annotation 1 in .* has category"),
    ({"bbox": [1, 2, 3]}, r"annotation 1 in .* has the bbox \[1, 2, 3\]"),
    ({"bbox": None}, "annotation 1 in .* has the bbox None"),
    ({"bbox": [1, 2, float("nan"), 4]}, "annotation 1 in .* has the bbox"),
    ({"area": "big"}, "annotation 1 in .* has the area 'big'"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_broken_annotation(coco: Any, add_thing: Add, change: dict[str, Any], words: str) -> None:
    coco.image(1)
    coco.add({**add_thing(1, 1, 2, [1, 1, 9, 9]), **change})
    with pytest.raises(UserError, match=words) as caught:
        COCODataSet(**coco.arguments())
    assert "annotations.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("[]", "no list 'images'"),
        ('{"images": {}}', "no list 'images'"),
        ('{"images": []}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "categories": []}', "an image without id .* or file_name"),
        ('{"images": [], "categories": [{"id": "a", "name": "b"}]}', "a category without id"),
        ('{"images": [], "categories": []}', "no categories"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}], "annotations": {"a": 1}}', "are not a list"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "category of id 1 twice"),
    ],
)
def test_broken_file(coco: Any, text: str, words: str) -> None:
    arguments = coco.arguments()
    (coco.folder / "annotations.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        COCODataSet(**arguments)
    assert "annotations.json" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.image(2, write=False)
    coco.add(add_thing(1, 1, 2, [1, 1, 9, 9]), add_thing(2, 2, 2, [1, 1, 9, 9]))
    arguments = coco.arguments()
    with pytest.raises(
        UserError, match=r"002\.png named in .*annotations\.json is missing \(1 of 2 images are missing\)"
    ):
        COCODataSet(**arguments)
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        COCODataSet(**{**arguments, "anno_path": "nowhere.json"})
    with pytest.raises(UserError, match="folder .*nowhere does not exist"):
        COCODataSet(**{**arguments, "image_dir": "nowhere"})


def test_unfit_settings(coco: Any, add_thing: Add) -> None:
    coco.image(1)
    coco.add(add_thing(1, 1, 2, [1, 1, 9, 9]))
    with pytest.raises(UserError, match="has 3 categories, but num_classes is 80"):
        COCODataSet(**coco.arguments(), num_classes=80)
    with pytest.raises(UserError, match="gt_box"):
        COCODataSet(**{**coco.arguments(), "data_fields": ["image", "gt_box"]})
    del coco.content["images"][0]["width"]
    with pytest.raises(UserError, match=r"001\.png.* no width and height"):
        COCODataSet(**coco.arguments())


def test_image_folder_names(coco: Any, tmp_path: Path) -> None:
    folder = ImageFolder(coco.save(), anno_path="annotations.json", num_classes=3)
    assert (folder.category_ids, folder.class_names) == ([2, 5, 7], ["two", "five", "seven"])
    with pytest.raises(UserError, match="3 categories, but num_classes is 4"):
        _ = ImageFolder(coco.save(), anno_path="annotations.json", num_classes=4).categories
    elsewhere = ImageFolder(str(tmp_path), anno_path="none.json", num_classes=80)
    assert (elsewhere.class_names[0], elsewhere.class_names[-1]) == ("person", "toothbrush")
    assert (elsewhere.category_ids[-1], len(elsewhere.category_ids)) == (90, 80)
    assert ImageFolder(num_classes=2).class_names == ["class 1", "class 2"]
    folder.set_images(["b.jpg", "a.jpg"])
    assert (len(folder), folder[1].image_path, folder[1].image_id) == (2, "a.jpg", 1)


def test_packed_records() -> None:
    items = [{"a": [1, 2.5]}, None, (np.arange(3), "text"), []]
    records = PackedRecords(items)
    assert len(records) == 4
    assert records[0] == items[0] and records[1] is None and records[3] == []
    np.testing.assert_array_equal(records[2][0], [0, 1, 2])
    records[0]["a"].append(3)
    assert records[0] == {"a": [1, 2.5]}
    with pytest.raises(IndexError):
        records[4]


def test_real_annotations(tiny_coco: Path) -> None:
    for split, objects, crowds in (("train", 465, 5), ("val", 225, 3)):
        fields = ["image", "gt_bbox", "gt_class", "gt_poly", "is_crowd"]
        file = f"annotations/instances_{split}2017.json"
        data = create("COCODataSet", dataset_dir=str(tiny_coco), image_dir=f"{split}2017", anno_path=file,
                      data_fields=fields, num_classes=80)  # fmt: skip
        flags = np.concatenate([data[index].is_crowd for index in range(len(data))])
        content = json.loads((tiny_coco / file).read_text())
        assert len(flags) == len(content["annotations"])
        assert ((flags == 0).sum(), flags.sum()) == (objects, crowds)
