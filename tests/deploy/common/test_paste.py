"""Pasting masks: the reference's values, and hand-worked pixels."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from deploy.common.paste import paste_bitmap, paste_mask, paste_region


def whole(region: np.ndarray, corner: tuple[int, int], height: int, width: int) -> np.ndarray:
    """The image that a part belongs to."""
    image = np.zeros((height, width), region.dtype)
    image[corner[0] : corner[0] + region.shape[0], corner[1] : corner[1] + region.shape[1]] = region
    return image


def direct(probability: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear sampling pixel by pixel in float64, as the definition reads."""
    size = probability.shape[0]
    padded = np.pad(probability.astype(np.float64), 1)
    values = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * size - 0.5
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * size - 0.5
            if not (-1 < v < size and -1 < u < size):
                continue
            i, j = int(np.floor(v)), int(np.floor(u))
            b, a = v - i, u - j
            cells = padded[i + 1 : i + 3, j + 1 : j + 3]
            values[y, x] = np.array([1 - b, b]) @ cells @ np.array([1 - a, a])
    return values


def test_reference_values_and_bitmaps(oracle: Path) -> None:
    with np.load(oracle / "golden" / "units.npz") as file:
        case = {name: file[f"paste/{name}"] for name in ("probabilities", "boxes", "values", "bitmap")}
    assert len(case["boxes"]) == 5
    for mask, box, values, bitmap in zip(case["probabilities"], case["boxes"], case["values"], case["bitmap"]):
        np.testing.assert_allclose(whole(*paste_region(mask, box, 48, 64), 48, 64), values, atol=1e-6)
        pasted = paste_mask(mask, box, 48, 64)
        assert pasted.dtype == np.uint8 and pasted.flags.f_contiguous
        np.testing.assert_array_equal(pasted, bitmap)
        np.testing.assert_array_equal(whole(*paste_bitmap(mask, box, 48, 64), 48, 64), bitmap)


def test_two_cells_by_hand() -> None:
    """A mask of one row, cells 1 and 0, on a box of four pixels: centres fall at cells -0.25, 0.25, 0.75, 1.25."""
    mask = np.array([[1.0, 0.0]], np.float32)
    box = np.array([2, 0, 6, 1], np.float32)
    values = whole(*paste_region(mask, box, 1, 8), 1, 8)
    # Beyond the box the value fades to zero: centre 1.5 falls at cell -0.75.
    np.testing.assert_allclose(values[0], [0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(paste_mask(mask, box, 1, 8)[0], [0, 0, 1, 1, 0, 0, 0, 0])


def test_threshold_is_included() -> None:
    mask = np.full((28, 28), 0.5, np.float32)
    box = np.array([4, 4, 60, 60], np.float32)  # two pixels a cell: inside, the weights sum to exactly 1
    assert paste_mask(mask, box, 64, 64)[10:50, 10:50].all()
    assert not paste_mask(mask, box, 64, 64, threshold=0.51).any()
    assert paste_mask(mask, box, 64, 64, threshold=0.3).sum() > paste_mask(mask, box, 64, 64).sum()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_bitmaps_equal_direct_sampling(threshold: float) -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        corner, side = rng.uniform(-20, 40, 2), np.exp(rng.uniform(np.log(0.3), np.log(80), 2))
        box = np.concatenate([corner, corner + side]).astype(np.float32)
        mask = rng.random((28, 28)).astype(np.float32)
        expected = direct(mask, box.astype(np.float64), 30, 40)
        got = paste_mask(mask, box, 30, 40, threshold)
        certain = np.abs(expected - threshold) > 1e-4
        np.testing.assert_array_equal(got[certain], expected[certain] >= threshold)
        assert certain.mean() > 0.97


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 9),
        (9, 5, 5, 9),
        (100, 100, 120, 120),
        (-50, -50, -10, -10),
        (np.nan, 0, 5, 5),
        (0, 0, np.inf, 5),
        (3.2, 3.2, 3.2 + 1e-6, 9),
        (0, 0, 1e-38, 1e-38),
    ],
)
def test_boxes_without_a_pixel(box: tuple[float, ...]) -> None:
    mask = np.ones((28, 28), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bitmap = paste_mask(mask, np.array(box, np.float32), 20, 30)
        part, _ = paste_bitmap(mask, np.array(box, np.float32), 20, 30)
    assert bitmap.shape == (20, 30) and not bitmap.any() and not part.any()


def test_box_beyond_the_image_is_cut() -> None:
    bitmap = paste_mask(np.ones((28, 28), np.float32), np.array([-1e6, -5, 1e6, 7], np.float32), 20, 30)
    assert bitmap[:7].all() and not bitmap[7:].any()


def test_only_what_the_object_covers_is_laid_out() -> None:
    """A small object in a large box gives a small part: the cost follows the object."""
    mask = np.zeros((28, 28), np.float32)
    mask[10:14, 20:22] = 1.0
    part, (top, left) = paste_bitmap(mask, np.array([0, 0, 2800, 2800], np.float32), 3000, 3000)
    # 4 x 2 cells of 100 pixels, and the half cells over which the value falls to 0.5: none beyond the edges.
    assert part.shape == (400, 200) and (top, left) == (1000, 2000) and part.any(axis=0).all()
    empty, _ = paste_bitmap(np.zeros((28, 28), np.float32), np.array([0, 0, 2800, 2800], np.float32), 3000, 3000)
    assert empty.size == 0


def test_the_module_needs_numpy_alone(repo_root: Path) -> None:
    """Deployment takes the file as it is, without the package around it."""
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('paste', {str(repo_root / 'deploy' / 'common' / 'paste.py')!r})\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(sorted(set(sys.modules) & {'ppdet', 'paddle', 'cv2', 'pycocotools'}), m.paste_mask.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["[]", "paste_mask"]
