"""Memory during a long evaluation: what is kept of a batch is its results, nothing as large as an image."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.engine.device import memory_text
from ppdet.engine.evaluator import evaluate
from ppdet.metrics import COCOMetric, coco
from ppdet.modeling.architectures import Architecture
from ppdet.structures.predictions import Predictions
from ppdet.utils.errors import UserError

BATCHES, WARM_UP, SIDE, OBJECTS = 150, 40, 640, 3
BOUND_MB = 40
"""A leak of one image's masks per batch would be 110 * 3 * 640 * 640 bytes = 129 MB."""


def _used() -> int:
    """MB that this process holds, what tests before have freed not counted."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return int(memory_text().split()[0])


class _Net(Architecture):
    """Detections with masks, as HTC gives them."""

    def forward(self, batch: dict[str, Any]) -> Predictions:  # type: ignore[override]
        """Three objects an image over most of it."""
        count = len(batch["im_id"])
        features = nn.functional.avg_pool2d(batch["image"], 16)
        box = [20.0, 20.0, SIDE - 20.0, SIDE - 20.0]
        noise = features.mean() * 0
        return Predictions(
            scores=paddle.full([OBJECTS * count], 0.9),
            labels=paddle.zeros([OBJECTS * count], "int64"),
            counts=paddle.full([count], OBJECTS, "int32"),
            boxes=paddle.to_tensor([box] * OBJECTS * count) + noise,
            masks=paddle.rand([OBJECTS * count, 28, 28]),
        )


class _Loader:
    """Blank images; remembers the memory in use (MB) at each batch."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(BATCHES):
            self.used.append(_used())
            yield {
                "image": paddle.ones([1, 3, SIDE, SIDE]),
                "im_id": paddle.to_tensor([index]),
                "orig_size": paddle.to_tensor([[SIDE, SIDE]]),
            }
        self.used.append(_used())


def _growth(folder: Path) -> int:
    """MB that the process grows by after the first batches of an evaluation."""
    anno = folder / "anno.json"
    images = [{"id": index, "width": SIDE, "height": SIDE, "file_name": f"{index}.jpg"} for index in range(BATCHES)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 20, 600, 600], "area": 3.6e5, "iscrowd": 0}
    outline = [[20, 20, 620, 20, 620, 620, 20, 620]]
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**box, "segmentation": outline}],
    }
    anno.write_text(json.dumps(content))
    dataset = SimpleNamespace(anno_path=str(anno), category_ids=[1], class_names=["a"], has_annotations=True)
    loader = _Loader()
    numbers = evaluate(_Net(), loader, COCOMetric(dataset), 1000)
    assert set(numbers) == {"bbox", "mask"}
    return loader.used[-1] - loader.used[WARM_UP]


def test_memory_stays_flat(tmp_path: Path) -> None:
    assert _growth(tmp_path) < BOUND_MB


def test_a_leak_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    plain = coco.split_outputs

    def leaking(outputs: dict[str, np.ndarray], *args: Any) -> Any:
        kept.append(np.ones((len(outputs["mask"]), SIDE, SIDE), np.uint8))
        return plain(outputs, *args)

    monkeypatch.setattr(coco, "split_outputs", leaking)
    assert _growth(tmp_path) > BOUND_MB


def test_nothing_to_evaluate() -> None:
    with pytest.raises(UserError, match="no images to evaluate"):
        evaluate(_Net(), [], SimpleNamespace(), 1)
