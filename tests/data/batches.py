"""Helpers to compare batches of the small data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from ppdet.core.workspace import create
from ppdet.data.loader import Loader

TRAIN = [
    "Decode",
    {"RandomResize": {"target_size": [[32, 200], [64, 200]], "random_range": True}},
    {"RandomFlip": {"prob": 0.5}},
    "NormalizeImage",
    "Permute",
]
TEST = ["Decode", {"Resize": {"target_size": [32, 64]}}, "NormalizeImage", "Permute"]


def train(data: Any, workers: int, **more: Any) -> Loader:
    loader = create("TrainReader", sample_transforms=TRAIN, batch_size=2, shuffle=True, **more)(data, workers)
    loader.set_seed(3)
    return loader


def numbers(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, paddle.Tensor) else value for key, value in batch.items()}


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in zip(first, second)
    )
