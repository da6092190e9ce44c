"""Pictures so small or narrow that a level of the pyramid is one pixel: the exported graph still computes the same.

Operators meet axes of length one here, alone and together with batches of one image. Under oneDNN, the default of
Paddle Inference on a CPU, not every operator computes such sizes correctly.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from tests.export.test_exporter import assert_same_detections, open_graph, outputs_of

SIDES = (32, 64, 96)
SIZES = [*itertools.product(SIDES, SIDES), (1280, 32), (32, 1280)]
FEWEST_DETECTIONS = 500


def _pictures(height: int, width: int, count: int) -> dict[str, np.ndarray]:
    """The first picture fills its place, the second leaves a part of it to padding."""
    rng = np.random.default_rng(height + width)
    shapes = np.array([[height, width], [height - 9, width // 2]][:count], np.float32)
    image = np.zeros((count, 3, height, width), np.float32)
    for place, (rows, columns) in enumerate(shapes.astype(int)):
        image[place, :, :rows, :columns] = rng.normal(size=(3, rows, columns))
    return {"image": image, "im_shape": shapes, "scale_factor": np.full((count, 2), 0.5, np.float32)}


def test_every_size_equals_the_model_under_onednn(exported_htc: tuple[Path, Any]) -> None:
    folder, model = exported_htc
    predictor = open_graph(folder, onednn=True)
    found = 0
    for (height, width), count in itertools.product(SIZES, (1, 2)):
        inputs = _pictures(height, width, count)
        outputs = outputs_of(predictor, inputs)
        for one, other in zip(outputs, outputs_of(predictor, inputs)):
            np.testing.assert_array_equal(one, other, err_msg=f"{height} x {width}: two calls differ")
        found += assert_same_detections(outputs, model, inputs)
    assert found > FEWEST_DETECTIONS


def test_small_sizes_equal_the_model_without_onednn(exported_htc: tuple[Path, Any]) -> None:
    folder, model = exported_htc
    predictor = open_graph(folder, onednn=False)
    for height, width in ((32, 32), (64, 32), (32, 96)):
        inputs = _pictures(height, width, 2)
        assert assert_same_detections(outputs_of(predictor, inputs), model, inputs) > 10
