"""A small valid COCO file, and what becomes of it when any of its values is replaced by a hostile one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ppdet.core.workspace import build_op
from ppdet.data.semantic_maps import SemanticMapMaker
from ppdet.data.source import COCODataSet
from ppdet.metrics import COCOMetric

HEIGHT, WIDTH = 40, 60

FIELDS = ("image", "gt_bbox", "gt_class", "gt_poly", "is_crowd")


def runs(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """Uncompressed run lengths of a rectangle."""
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8)
    bitmap[y : y + height, x : x + width] = 1
    flat = np.concatenate([[0], bitmap.ravel(order="F"), [0]])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges.tolist(), HEIGHT * WIDTH]).tolist()}


def thing(number: int, image: int, box: list[float], **more: Any) -> dict[str, Any]:
    """An annotation whose outline is its box."""
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    entry = {"id": number, "image_id": image, "category_id": 2, "bbox": box, "area": w * h, "iscrowd": 0}
    return {**entry, "segmentation": outline, **more}


def valid_content() -> dict[str, Any]:
    """Two images, five objects: polygons, both kinds of run lengths, a crowd."""
    compressed = coco_mask.frPyObjects(runs(5, 6, 20, 10), HEIGHT, WIDTH)
    compressed["counts"] = compressed["counts"].decode()
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    return {
        "info": {"year": 2017},
        "images": images,
        "annotations": [
            thing(1, 1, [10, 10, 20, 15]),
            thing(2, 1, [5, 6, 20, 10], segmentation=compressed, category_id=7),
            thing(3, 2, [2, 3, 30, 20], segmentation=runs(2, 3, 30, 20), ignore=0),
            thing(4, 2, [30, 5, 25, 30], segmentation=runs(30, 5, 25, 30), iscrowd=1),
            thing(5, 2, [40.5, 10.25, 10, 12]),
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}],
    }


def write_images(folder: Path) -> None:
    """Write the two images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values, lists and mappings included."""
    if path:
        yield path
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield from leaves(value, (*path, key))


def replaced(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy with one value replaced."""
    changed = copy.deepcopy(content)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


def evaluation_set(folder: Path) -> COCODataSet:
    """The data set without annotated objects, as an evaluation reads it."""
    return COCODataSet(dataset_dir=str(folder), image_dir="images", anno_path="a.json")


def training_set(folder: Path, **more: Any) -> COCODataSet:
    """The training set of a folder's ``a.json``."""
    options: dict[str, Any] = {"data_fields": FIELDS, "semantic": {"kind": "instances"}, **more}
    return COCODataSet(dataset_dir=str(folder), image_dir="images", anno_path="a.json", **options)


def train_on(folder: Path) -> list[Any]:
    """Read and decode what trains on ``a.json``."""
    data = training_set(folder)
    decode = build_op("Decode")
    rng = np.random.default_rng(0)
    samples = [decode(data[index], rng) for index in range(len(data))]
    for sample in samples:
        assert np.isfinite(sample.boxes).all() and sample.semantic is not None
        assert sample.masks.shape == (len(sample.boxes), HEIGHT, WIDTH)
        assert (sample.labels >= 0).all() and (sample.labels < len(data.category_ids)).all()
    assert sum(len(sample.boxes) for sample in samples) > 0
    return samples


def evaluate_on(folder: Path) -> dict[str, list[float]]:
    """Measure perfect predictions of the first two objects on ``a.json``."""
    data = evaluation_set(folder)
    metric = COCOMetric(data, classwise=True, output_eval=str(folder / "out"))
    for index in range(len(data)):
        rows = np.array([[0, 0.9, 10, 10, 30, 25], [len(data.category_ids) - 1, 0.8, 5, 6, 25, 16]], np.float32)
        rows = rows if index == 0 else rows[:0]
        metric.update(
            {"im_id": np.array([data[index].image_id]), "orig_size": np.array([[HEIGHT, WIDTH]])},
            {"bbox": rows, "bbox_num": np.array([len(rows)]), "mask": np.ones((len(rows), 28, 28), np.float32)},
        )
    metric.accumulate()
    results = metric.get_results()
    assert all(-1 <= value <= 1 for values in results.values() for value in values)
    return results


def map_of(folder: Path) -> list[np.ndarray]:
    """The semantic maps that tools/make_semantic_maps.py makes of ``a.json``."""
    maker = SemanticMapMaker(str(folder / "a.json"))
    return [maker.make(image) for image in maker.images]


def write(folder: Path, content: Any) -> None:
    """Write ``a.json``."""
    (folder / "a.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def train_on_maps(folder: Path, semantic: dict[str, Any]) -> list[Any]:
    """Decode the samples of ``a.json`` with semantic maps from files."""
    data = training_set(folder, semantic=semantic)
    decode = build_op("Decode")
    return [decode(data[index], np.random.default_rng(0)) for index in range(len(data))]
