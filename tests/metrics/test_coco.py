"""COCO numbers against pycocotools, and the files that are written."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppdet.metrics.coco import COCOMetric, twelve_lines
from tests.deploy.box_detections import box_detections
from tests.metrics.coco_truth import BATCH, dataset, evaluated, outputs, write_truth


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


def test_a_model_without_boxes_is_measured_by_its_masks(tmp_path: Path) -> None:
    """Masks over the whole input and masks placed by matrices; two of three objects are found."""
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30], [0, 80, 10, 10]]))
    image_values = np.zeros((2, 20, 20), np.float32)  # cells of 5 pixels
    image_values[0, 2:10, 2:10] = image_values[1, 12:18, 12:18] = 1.0
    matrices = np.array([[[10, 0, 14.5], [0, 10, 14.5]], [[10, 0, 64.5], [0, 10, 64.5]]], np.float32)
    affine_values = np.zeros((2, 4, 4), np.float32)  # pixels of 10 x 10
    affine_values[0], affine_values[1, :3, :3] = 1.0, 1.0
    shared = {"instances": np.array([[0, 0.9], [0, 0.8]], np.float32), "bbox_num": np.array([2])}
    for values, placement in (
        (image_values, {"mask_extent": np.array([[100, 100]], np.float32)}),
        (affine_values, {"mask_matrix": matrices}),
    ):
        metric = evaluated(truth, {**shared, "mask": values, **placement})
        numbers = metric.get_results()
        assert list(numbers) == ["mask"]
        assert numbers["mask"][1] == pytest.approx(67 / 101)  # recall points 0, 0.01, ..., 0.66 at precision 1
        assert numbers["mask"][8] > 0.6


def test_a_model_without_masks_is_measured_by_its_boxes(tmp_path: Path) -> None:
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40]]))
    predicted = {name: array for name, array in outputs([[0, 0.9, 10, 10, 50, 50]]).items() if name != "mask"}
    assert list(evaluated(truth, predicted).get_results()) == ["bbox"]


def test_nothing_found_by_a_model_without_boxes(tmp_path: Path) -> None:
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40]]))
    predicted = {
        "instances": np.zeros((0, 2), np.float32),
        "bbox_num": np.array([0]),
        "mask": np.zeros((0, 4, 4), np.float32),
        "mask_extent": np.array([[100, 100]], np.float32),
    }
    assert evaluated(truth, predicted).get_results()["mask"][0] == 0.0


def test_masks_are_ranked_by_their_own_scores(tmp_path: Path) -> None:
    """A false mask with a high class score and a low mask score does not cost precision."""
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40]]))
    predicted = outputs([[0, 0.9, 60, 60, 80, 80], [0, 0.8, 10, 10, 50, 50]])
    assert evaluated(truth, predicted).get_results()["mask"][0] == pytest.approx(0.5)
    predicted["mask_score"] = np.array([0.1, 0.7], np.float32)
    numbers = evaluated(truth, predicted).get_results()
    assert numbers["mask"][0] == 1.0 and numbers["bbox"][0] == pytest.approx(0.5)


def test_bitmap_of_the_image_size() -> None:
    rows = np.array([[0, 1.0, -5, -5, 15, 15]], np.float32)
    result = box_detections(rows, np.ones((1, 28, 28), np.float32), (20, 30), ["a"], [3]).to_coco(1)[1][0]
    bitmap = coco_mask.decode(result["segmentation"])
    assert bitmap.shape == (20, 30) and bitmap.sum() == 15 * 15 and bitmap[:15, :15].all()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> SimpleNamespace:
    """Change an annotation file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return dataset(path)


@pytest.mark.parametrize("change", ["from zero", "all the same", "none", "text"])
def test_ids_of_annotations_do_not_matter(tmp_path: Path, change: str) -> None:
    """COCO's code loses objects of id 0 and all but one of the same id without a word."""

    def renumber(content: dict[str, Any]) -> None:
        for place, annotation in enumerate(content["annotations"]):
            annotation.pop("id")
            if change != "none":
                annotation["id"] = {"from zero": place, "all the same": 3, "text": f"a{place}"}[change]

    metric = COCOMetric(edit(write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30]]), renumber))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50], [0, 0.8, 60, 60, 90, 90]]))
    metric.accumulate()
    assert metric.get_results()["bbox"][0] == 1.0 and metric.get_results()["mask"][0] == 1.0


def test_missing_area_and_crowd_flag_are_completed(tmp_path: Path) -> None:
    def strip(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            del annotation["area"], annotation["iscrowd"]

    metric = COCOMetric(edit(write_truth(tmp_path, [[10, 10, 40, 40]]), strip))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    metric.accumulate()
    numbers = metric.get_results()["bbox"]
    assert numbers[3] == -1.0 and numbers[4] == 1.0 and numbers[5] == -1.0  # 1600 pixels: a medium object


@pytest.mark.parametrize("outline", [None, [], [[1, 2, 3, 4]]])
def test_without_any_outline_only_boxes_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outline: Any
) -> None:
    def strip(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = outline

    metric = COCOMetric(edit(write_truth(tmp_path, [[10, 10, 40, 40]]), strip))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    metric.accumulate()
    metric.log()
    assert list(metric.get_results()) == ["bbox"] and metric.get_results()["bbox"][0] == 1.0
    assert capsys.readouterr().out.count("Average Precision") == 6


def test_an_object_without_outline_among_others_is_not_found_as_a_mask(tmp_path: Path) -> None:
    path = write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30]])
    metric = COCOMetric(edit(path, lambda content: content["annotations"][1].pop("segmentation")))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50], [0, 0.8, 60, 60, 90, 90]]))
    metric.accumulate()
    assert metric.get_results()["bbox"][0] == 1.0
    assert metric.get_results()["mask"][0] == pytest.approx(51 / 101)


def test_one_class_and_a_crowd(tmp_path: Path) -> None:
    """A detection on a crowd counts neither for nor against."""

    def change(content: dict[str, Any]) -> None:
        content["categories"] = content["categories"][:1]
        content["annotations"][1]["iscrowd"] = 1

    source = edit(write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30]]), change)
    source.category_ids, source.class_names = [7], ["square"]
    metric = COCOMetric(source, classwise=True)
    metric.update(BATCH, outputs([[0, 0.9, 60, 60, 75, 75], [0, 0.8, 10, 10, 50, 50]]))
    metric.accumulate()
    assert metric.get_results()["bbox"][:2] == [1.0, 1.0] and metric.get_results()["mask"][0] == 1.0


def perturbed(truth: COCO, ids: list[int]) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Batches and outputs: the boxes of real images shaken, some under a wrong class, elliptic masks."""
    rng = np.random.default_rng(3)
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
        yield batch, {**outputs(rows), "mask": np.tile(disc, (len(rows), 1, 1))}


def judge(truth: COCO, rows: list[dict[str, Any]], kind: str) -> tuple[COCOeval, list[str]]:
    """What pycocotools itself measures and prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation, [line for line in text.getvalue().splitlines() if "Average" in line]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_equal_to_pycocotools(tiny_coco: Path, split: str) -> None:
    """Perturbed ground truth of real images: all numbers, lines and class tables equal those of pycocotools."""
    path = tiny_coco / "annotations" / f"instances_{split}.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    ids = sorted(truth.getCatIds())
    names = [truth.cats[i]["name"] for i in ids]
    source = SimpleNamespace(anno_path=str(path), category_ids=ids, class_names=names, has_annotations=True)
    metric = COCOMetric(source, classwise=True)
    for batch, found in perturbed(truth, ids):
        metric.update(batch, found)
    metric.accumulate()
    for kind, coco_kind in (("bbox", "bbox"), ("mask", "segm")):
        evaluation, lines = judge(truth, metric.state()[1][kind], coco_kind)
        np.testing.assert_allclose(metric.get_results()[kind], evaluation.stats, atol=1e-12)
        assert twelve_lines(metric.get_results()[kind]).splitlines() == lines
        assert 0.01 < evaluation.stats[0] < 0.9
        person = evaluation.eval["precision"][:, :, 0, 0, -1]
        expected = f"{person.mean():.3f}  {person[0].mean():.3f}  {person[5].mean():.3f}"
        line = next(line for line in metric.table(kind).splitlines() if line.startswith("person"))
        assert line.split() == ["person", *expected.split()]


def test_both_evaluations_agree(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where faster-coco-eval is not installed pycocotools is used, with the same numbers."""
    path = tiny_coco / "annotations" / "instances_val2017.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    ids = sorted(truth.getCatIds())
    source = SimpleNamespace(
        anno_path=str(path), category_ids=ids, class_names=[truth.cats[i]["name"] for i in ids], has_annotations=True
    )
    results = []
    for missing in (False, True):
        if missing:
            monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
        metric = COCOMetric(source)
        for batch, found in perturbed(truth, ids):
            metric.update(batch, found)
        metric.accumulate()
        results.append(metric.get_results())
    for kind in ("bbox", "mask"):
        np.testing.assert_allclose(results[0][kind], results[1][kind], atol=1e-12)
