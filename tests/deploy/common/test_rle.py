"""Run-length encoding that is identical to pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from deploy.common.paste import paste_box, place_part
from deploy.common.rle import compress, encode, run_lengths
from tests.deploy.box_detections import box_detections


def reference(bitmap: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode()


def test_runs_by_hand() -> None:
    part = np.array([[1, 0], [1, 1]], bool)
    # 4 rows and 3 columns in column-major order: 0 0 0 0 | 0 1 1 0 | 0 0 1 0
    assert run_lengths(part, (1, 1), 4, 3).tolist() == [5, 2, 3, 1, 1]
    # Runs that cover the whole height continue in the next column.
    assert run_lengths(np.ones((2, 3), bool), (0, 0), 2, 3).tolist() == [0, 6]
    assert run_lengths(np.array([[0, 1], [1, 1]], bool), (0, 0), 2, 4).tolist() == [1, 3, 4]
    assert run_lengths(np.zeros((0, 0), bool), (0, 0), 5, 6).tolist() == [30]


def test_text_by_hand() -> None:
    # 5 -> '5'; 40 = 8 + 32 * 1 -> (8 | 32) + 48 = 'X', then 1 + 48 = '1'; from the fourth run on, the difference to the
    # second to last run: 2 - 40 = -38 = -2 * 32 + 26 -> (26 | 32) + 48 = 'j', then 30 + 48 = 'N'.
    assert compress(np.array([5, 40, 3, 2])) == b"5X13jN"


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_bytes_equal_pycocotools(density: float) -> None:
    rng = np.random.default_rng(int(density * 100))
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        bottom, right = int(rng.integers(top, height + 1)), int(rng.integers(left, width + 1))
        if rng.random() < 0.3:
            top, bottom = 0, height  # runs that continue across columns
        part = rng.random((bottom - top, right - left)) < density
        image = np.zeros((height, width), np.uint8)
        image[top:bottom, left:right] = part
        found = encode(part, (top, left), height, width)
        assert found == {"size": [height, width], "counts": reference(image)}
        np.testing.assert_array_equal(coco_mask.decode(found), image)


def test_large_image() -> None:
    """Long runs with positive and negative differences."""
    image = np.zeros((3000, 4000), np.uint8)
    image[100:2900, 1000:3900:7] = 1
    image[:, 2000:2100] = 1
    assert encode(image, (0, 0), 3000, 4000)["counts"] == reference(image)


def test_results_equal_the_encoded_full_bitmaps() -> None:
    rng = np.random.default_rng(2)
    corner, side = rng.uniform(-30, 90, (30, 2)), rng.uniform(0, 90, (30, 2))
    rows = np.concatenate([np.zeros((30, 1)), rng.random((30, 1)), corner, corner + side], 1).astype(np.float32)
    masks = rng.random((30, 28, 28)).astype(np.float32)
    _, results = box_detections(rows, masks, (80, 100), ["a"], [3]).to_coco(1)
    assert [r["segmentation"]["counts"] for r in results] == [
        reference(place_part(*paste_box(mask, row[2:], 80, 100), 80, 100)) for row, mask in zip(rows, masks)
    ]
