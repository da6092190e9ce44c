"""COCO numbers against pycocotools, and the files that are written."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppdet.metrics.coco import COCOMetric, twelve_lines
from ppdet.metrics.coco_results import mask_results


def write_truth(folder: Path, boxes: list[list[float]], size: int = 100, with_annotations: bool = True) -> Path:
    """One image with square objects of class 7, and a class 9 without any."""
    content: dict[str, object] = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": size, "width": size}],
        "categories": [{"id": 7, "name": "square"}, {"id": 9, "name": "round"}],
    }
    if with_annotations:
        content["annotations"] = [
            {
                "id": i + 1,
                "image_id": 5,
                "category_id": 7,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for i, (x, y, w, h) in enumerate(boxes)
        ]
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def dataset(path: Path, with_annotations: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        anno_path=str(path), category_ids=[7, 9], class_names=["square", "round"], has_annotations=with_annotations
    )


BATCH = {"im_id": np.array([5]), "orig_size": np.array([[100, 100]])}


def outputs(rows: list[list[float]]) -> dict[str, np.ndarray]:
    array = np.array(rows, np.float32).reshape(-1, 6)
    return {
        "bbox": array,
        "bbox_num": np.array([len(array)], np.int32),
        "mask": np.ones((len(array), 28, 28), np.float32),
    }


def test_half_of_the_objects_found(tmp_path: Path) -> None:
    metric = COCOMetric(dataset(write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30]])))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    metric.accumulate()
    numbers = metric.get_results()
    # One of two found at precision 1: recall points 0, 0.01, ..., 0.50 are 51 of 101.
    assert numbers["bbox"][0] == pytest.approx(51 / 101)
    assert numbers["mask"][1] == pytest.approx(51 / 101)
    assert numbers["bbox"][8] == pytest.approx(0.5)


def test_nothing_found_is_zero(tmp_path: Path) -> None:
    metric = COCOMetric(dataset(write_truth(tmp_path, [[10, 10, 40, 40]])))
    metric.update(BATCH, outputs([]))
    metric.accumulate()
    assert metric.get_results()["bbox"][0] == 0.0
    assert metric.get_results()["mask"][0] == 0.0


def test_classwise_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = COCOMetric(dataset(write_truth(tmp_path, [[10, 10, 40, 40]])), classwise=True)
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    metric.accumulate()
    metric.log()
    printed = capsys.readouterr().out
    assert "square  1.000  1.000  1.000" in printed
    assert "round       -      -      -" in printed
    assert printed.count("Average Precision") == 12 and printed.count("Average Recall") == 12


def test_without_ground_truth_only_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metric = COCOMetric(dataset(write_truth(tmp_path, [], with_annotations=False), False))
    metric.update(BATCH, outputs([[1, 0.5, 10, 20, 50, 40]]))
    metric.accumulate()
    assert metric.get_results() == {}
    rows = json.loads((tmp_path / "bbox.json").read_text())
    assert rows == [{"image_id": 5, "category_id": 9, "bbox": [10.0, 20.0, 40.0, 20.0], "score": 0.5}]
    segment = json.loads((tmp_path / "mask.json").read_text())[0]["segmentation"]
    assert coco_mask.area(segment) == 40 * 20


def test_shares_of_processes_count_an_image_once(tmp_path: Path) -> None:
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40]]))
    first, second = COCOMetric(truth), COCOMetric(truth)
    first.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    second.update(BATCH, outputs([[0, 0.9, 0, 0, 5, 5]]))
    merged = COCOMetric(truth)
    merged.load_state([first.state(), second.state()])
    merged.accumulate()
    assert merged.get_results()["bbox"][0] == 1.0


def test_bitmap_of_the_image_size() -> None:
    rows = np.array([[0, 1.0, -5, -5, 15, 15]], np.float32)
    result = mask_results(rows, np.ones((1, 28, 28), np.float32), 1, (20, 30), [3])[0]
    bitmap = coco_mask.decode(result["segmentation"])
    assert bitmap.shape == (20, 30) and bitmap.sum() == 15 * 15 and bitmap[:15, :15].all()


def test_equal_to_pycocotools(tiny_coco: Path) -> None:
    """Perturbed ground truth of real images: all numbers equal those of pycocotools."""
    path = tiny_coco / "annotations" / "instances_val2017.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    ids = sorted(truth.getCatIds())
    names = [truth.cats[i]["name"] for i in ids]
    source = SimpleNamespace(anno_path=str(path), category_ids=ids, class_names=names, has_annotations=True)
    metric, rng = COCOMetric(source), np.random.default_rng(3)
    axis = np.linspace(-1, 1, 28)
    disc = (axis[:, None] ** 2 + axis**2 < 0.9).astype(np.float32)
    for image_id in truth.getImgIds():
        image = truth.imgs[image_id]
        rows = []
        for annotation in truth.imgToAnns[image_id]:
            x, y, w, h = np.array(annotation["bbox"]) * rng.uniform(0.9, 1.1, 4)
            label = ids.index(annotation["category_id"]) if rng.random() < 0.9 else 0
            rows.append([label, rng.random(), x, y, x + w, y + h])
        batch = {"im_id": np.array([image_id]), "orig_size": np.array([[image["height"], image["width"]]])}
        found = outputs(rows)
        found["mask"] = np.tile(disc, (len(rows), 1, 1))
        metric.update(batch, found)
    metric.accumulate()
    for kind, coco_kind in (("bbox", "bbox"), ("mask", "segm")):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            evaluation = COCOeval(truth, truth.loadRes(metric.state()[1][kind]), coco_kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        np.testing.assert_allclose(metric.get_results()[kind], evaluation.stats, atol=1e-12)
        lines = [line for line in text.getvalue().splitlines() if "Average" in line]
        assert twelve_lines(metric.get_results()[kind]).splitlines() == lines
        assert 0.01 < evaluation.stats[0] < 0.9
