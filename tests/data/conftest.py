"""A COCO data set of a few images, created for each test that requires it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppdet.data.source import COCODataSet

HEIGHT, WIDTH = 40, 60


def square(x: float, y: float, side: float) -> list[list[float]]:
    """Return the polygon of a square."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def thing(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    """Return an annotation whose outline is its box."""
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}
    return {**entry, "segmentation": outline, **more}


class Coco:
    """Builder of an annotation file and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            # unordered ids with gaps: class indices follow the ids, not the order of the list
            "categories": [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}, {"id": 5, "name": "five"}],
        }
        (folder / "images").mkdir()

    def image(self, number: int, height: int = HEIGHT, width: int = WIDTH, write: bool = True) -> str:
        """Add an image with noise that depends on its id."""
        name = f"{number:03}.png"
        self.content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        if write:
            pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
            cv2.imwrite(str(self.folder / "images" / name), pixels)
        return name

    def add(self, *things: dict[str, Any]) -> Coco:
        """Add annotations."""
        self.content["annotations"].extend(things)
        return self

    def save(self) -> str:
        """Write the annotation file."""
        (self.folder / "annotations.json").write_text(json.dumps(self.content))
        return str(self.folder)

    def arguments(self, training: bool = True, **more: Any) -> dict[str, Any]:
        """Return constructor arguments of a COCODataSet for this data set."""
        fields = ["image", "gt_bbox", "gt_class", "gt_poly", "is_crowd"] if training else ["image"]
        own = {"dataset_dir": self.save(), "image_dir": "images", "anno_path": "annotations.json"}
        return {**own, "data_fields": fields, **more}


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


@pytest.fixture
def add_thing() -> Callable[..., dict[str, Any]]:
    return thing


@pytest.fixture
def data(coco: Any, add_thing: Callable[..., dict[str, Any]]) -> COCODataSet:
    for number in range(9):
        height, width = ((40, 60), (60, 40))[number % 2]
        coco.image(number, height, width)
        coco.add(*(add_thing(10 * number + k, number, 2, [2 * k, 3, 9, 8]) for k in range(1 + number % 3)))
    return COCODataSet(**coco.arguments(), semantic={"kind": "instances"})
