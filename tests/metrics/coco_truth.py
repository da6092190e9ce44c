"""Ground truth of one image, and predictions on it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ppdet.metrics.coco import COCOMetric


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
        anno_path=str(path),
        category_ids=[7, 9],
        class_names=["square", "round"],
        has_annotations=with_annotations,
        images=json.loads(path.read_text())["images"],
    )


BATCH = {"im_id": np.array([5]), "orig_size": np.array([[100, 100]])}


def outputs(rows: list[list[float]]) -> dict[str, np.ndarray]:
    array = np.array(rows, np.float32).reshape(-1, 6)
    return {
        "bbox": array,
        "bbox_num": np.array([len(array)], np.int32),
        "mask": np.ones((len(array), 28, 28), np.float32),
    }


def evaluated(truth: SimpleNamespace, predicted: dict[str, np.ndarray], **options: Any) -> COCOMetric:
    metric = COCOMetric(truth, **options)
    metric.update(BATCH, predicted)
    metric.accumulate()
    return metric
