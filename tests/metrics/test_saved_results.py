"""Predictions in files: what an evaluation writes, and measuring it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ppdet.engine.data import EvalData
from ppdet.engine.evaluator import evaluate_json
from ppdet.metrics.coco import COCOMetric
from ppdet.utils.errors import UserError
from tests.metrics.coco_truth import BATCH, dataset, evaluated, outputs, write_truth

SEGMENT = {"size": [100, 100], "counts": coco_mask.encode(np.eye(100, dtype=np.uint8, order="F"))["counts"].decode()}


@pytest.mark.parametrize("kinds", [["bbox"], ["mask"], ["bbox", "mask"]])
def test_only_what_was_predicted_is_written_and_measured_again(
    tmp_path: Path, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = dataset(write_truth(tmp_path, [[10, 10, 40, 40]]))
    predicted = outputs([[0, 0.9, 10, 10, 50, 50]])
    if "mask" not in kinds:
        del predicted["mask"]
    if "bbox" not in kinds:
        predicted["instances"] = predicted.pop("bbox")[:, :2]
        predicted["mask_matrix"] = np.array([[[40 / 28, 0, 10], [0, 40 / 28, 10]]], np.float32)
    folder = tmp_path / "out"
    folder.mkdir()
    metric = evaluated(truth, predicted, output_eval=str(folder))
    assert sorted(path.stem for path in folder.iterdir()) == kinds
    assert list(metric.get_results()) == kinds and all(metric.get_results()[kind][0] > 0.4 for kind in kinds)
    unwanted = tmp_path / "unwanted"
    data = EvalData(truth, [], {"output_eval": str(unwanted)})  # type: ignore[arg-type]
    assert evaluate_json(data, folder) == metric.get_results()
    assert not unwanted.exists(), "predictions that were read from files are not written again"
    assert data.options["output_eval"] == str(unwanted), "the next evaluation writes its predictions"


def test_json_eval_needs_one_of_the_files(tmp_path: Path) -> None:
    data = EvalData(dataset(write_truth(tmp_path, [[10, 10, 40, 40]])), [], {})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"neither bbox\.json nor mask\.json: --json_eval .* --output_eval"):
        evaluate_json(data, tmp_path)


def test_output_eval_writes_what_can_be_read_back(tmp_path: Path) -> None:
    source = dataset(write_truth(tmp_path, [[10, 10, 40, 40], [60, 60, 30, 30]]))
    metric = COCOMetric(source, output_eval=str(tmp_path / "new" / "folder"))
    metric.update(BATCH, outputs([[0, 0.9, 10, 10, 50, 50]]))
    metric.accumulate()
    written = {k: json.loads((tmp_path / "new" / "folder" / f"{k}.json").read_text()) for k in ("bbox", "mask")}
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["bbox.json", "mask.json"]
    again = COCOMetric(source)
    again.load_results(written)
    again.accumulate()
    assert again.get_results() == metric.get_results()


@pytest.mark.parametrize(
    ("kind", "row", "named"),
    [
        ("bbox", {"image_id": "5"}, "image_id"),
        ("bbox", {"image_id": True}, "image_id"),
        (
            "bbox",
            {"image_id": 6, "category_id": 7, "score": 1, "bbox": [1, 2, 3, 4]},
            "belongs to image 6, which .*truth.json",
        ),
        (
            "bbox",
            {"image_id": 5, "category_id": 7, "score": float("nan"), "bbox": [1, 2, 3, 4]},
            "the score nan, expected a number",
        ),
        ("bbox", {"image_id": 5, "category_id": 7, "score": 1, "bbox": [1, 2, 3, 10**400]}, "bbox"),
        (
            "mask",
            {
                "image_id": 5,
                "category_id": 7,
                "score": 1,
                "segmentation": {**SEGMENT, "counts": SEGMENT["counts"] + "1"},
            },
            "length",
        ),
        (
            "mask",
            {"image_id": 5, "category_id": 7, "score": 1, "segmentation": {**SEGMENT, "counts": "\ud800"}},
            "length",
        ),
        (
            "mask",
            {"image_id": 5, "category_id": 7, "score": 1, "segmentation": {"size": [1, 4], "counts": "04"}},
            r"of \[1, 4\] \(h, w\), but its image is \[100, 100\]",
        ),
        ("bbox", {"image_id": 5, "category_id": 8, "score": 1, "bbox": [1, 2, 3, 4]}, "category_id 8"),
        ("bbox", {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]}, "score"),
        ("bbox", {"image_id": 5, "category_id": 7, "score": 1, "bbox": [1, 2, 3]}, "bbox"),
        ("mask", {"image_id": 5, "category_id": 7, "score": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}, "segmentation"),
        ("mask", {"image_id": 5, "category_id": 7, "score": 1, "bbox": [1, 2, 3, 4]}, "segmentation"),
    ],
)
def test_results_in_another_format_are_named(tmp_path: Path, kind: str, row: dict[str, Any], named: str) -> None:
    good = {"image_id": 5, "category_id": 7, "score": 1, "bbox": [1, 2, 3, 4], "segmentation": SEGMENT}
    metric = COCOMetric(dataset(write_truth(tmp_path, [[10, 10, 40, 40]])))
    with pytest.raises(UserError, match=f"result 1 of {kind}.json .*{named}"):
        metric.load_results({kind: [good, row]})
