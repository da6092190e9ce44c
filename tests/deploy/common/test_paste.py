"""Pasting masks: the reference's values, and hand-worked pixels."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.common import paste
from deploy.common.paste import paste_affine, paste_box, paste_image, paste_region, place_part


def whole(region: np.ndarray, corner: tuple[int, int], height: int, width: int) -> np.ndarray:
    """The image that a part belongs to."""
    image = np.zeros((height, width), region.dtype)
    image[corner[0] : corner[0] + region.shape[0], corner[1] : corner[1] + region.shape[1]] = region
    return image


def pasted(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """The bitmap of a box-framed mask."""
    return place_part(*paste_box(mask, box, height, width, threshold), height, width)


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
        laid_out = pasted(mask, box, 48, 64)
        assert laid_out.dtype == np.uint8 and laid_out.flags.f_contiguous
        np.testing.assert_array_equal(laid_out, bitmap)
        np.testing.assert_array_equal(whole(*paste_box(mask, box, 48, 64), 48, 64), bitmap)


def test_two_cells_by_hand() -> None:
    """A mask of one row, cells 1 and 0, on a box of four pixels: centres fall at cells -0.25, 0.25, 0.75, 1.25."""
    mask = np.array([[1.0, 0.0]], np.float32)
    box = np.array([2, 0, 6, 1], np.float32)
    values = whole(*paste_region(mask, box, 1, 8), 1, 8)
    # Beyond the box the value fades to zero: centre 1.5 falls at cell -0.75.
    np.testing.assert_allclose(values[0], [0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(pasted(mask, box, 1, 8)[0], [0, 0, 1, 1, 0, 0, 0, 0])


def test_threshold_is_included() -> None:
    mask = np.full((28, 28), 0.5, np.float32)
    box = np.array([4, 4, 60, 60], np.float32)  # two pixels a cell: inside, the weights sum to exactly 1
    assert pasted(mask, box, 64, 64)[10:50, 10:50].all()
    assert not pasted(mask, box, 64, 64, threshold=0.51).any()
    assert pasted(mask, box, 64, 64, threshold=0.3).sum() > pasted(mask, box, 64, 64).sum()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_bitmaps_equal_direct_sampling(threshold: float) -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        corner, side = rng.uniform(-20, 40, 2), np.exp(rng.uniform(np.log(0.3), np.log(80), 2))
        box = np.concatenate([corner, corner + side]).astype(np.float32)
        mask = rng.random((28, 28)).astype(np.float32)
        expected = direct(mask, box.astype(np.float64), 30, 40)
        got = pasted(mask, box, 30, 40, threshold)
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
        bitmap = pasted(mask, np.array(box, np.float32), 20, 30)
        part, _ = paste_box(mask, np.array(box, np.float32), 20, 30)
    assert bitmap.shape == (20, 30) and not bitmap.any() and not part.any()


def test_box_beyond_the_image_is_cut() -> None:
    bitmap = pasted(np.ones((28, 28), np.float32), np.array([-1e6, -5, 1e6, 7], np.float32), 20, 30)
    assert bitmap[:7].all() and not bitmap[7:].any()


def test_only_what_the_object_covers_is_laid_out() -> None:
    """A small object in a large box gives a small part: the cost follows the object."""
    mask = np.zeros((28, 28), np.float32)
    mask[10:14, 20:22] = 1.0
    part, (top, left) = paste_box(mask, np.array([0, 0, 2800, 2800], np.float32), 3000, 3000)
    # 4 x 2 cells of 100 pixels, and the half cells over which the value falls to 0.5: none beyond the edges.
    assert part.shape == (400, 200) and (top, left) == (1000, 2000) and part.any(axis=0).all()
    empty, _ = paste_box(np.zeros((28, 28), np.float32), np.array([0, 0, 2800, 2800], np.float32), 3000, 3000)
    assert empty.size == 0


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth probabilities that are high in one place only."""
    y, x = np.mgrid[:height, :width]
    center, spread = rng.uniform(0, [height, width]), rng.uniform(0.1, 0.4, 2) * [height, width] + 0.3
    values = 1.2 * np.exp(-(((y - center[0]) / spread[0]) ** 2) - ((x - center[1]) / spread[1]) ** 2)
    return (values + rng.uniform(0, 0.05, (height, width))).clip(0, 1).astype(np.float32)


def resized(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole mask in another size: bilinear, half-pixel centres, edges extended; float64, pixel by pixel."""

    def axis(cells: int, pixels: int) -> np.ndarray:
        weights = np.zeros((pixels, cells))
        for pixel in range(pixels):
            position = min(max((pixel + 0.5) * cells / pixels - 0.5, 0.0), cells - 1.0)
            cell = min(int(position), cells - 1)
            weights[pixel, cell] += 1 - (position - cell)
            weights[pixel, min(cell + 1, cells - 1)] += position - cell
        return weights

    return axis(mask.shape[0], height) @ mask.astype(np.float64) @ axis(mask.shape[1], width).T


def test_image_frame_by_hand() -> None:
    """Two cells, 1 and 0, over four pixels: centres fall at cells -0.25 (extended), 0.25, 0.75, 1.25."""
    mask = np.array([[1.0, 0.0]], np.float32)
    for threshold, expected in ((0.76, [1, 0, 0, 0]), (0.75, [1, 1, 0, 0]), (0.25, [1, 1, 1, 0]), (0.26, [1, 1, 0, 0])):
        part, corner = paste_image(mask, (1.0, 4.0), 1, 4, threshold)
        np.testing.assert_array_equal(place_part(part, corner, 1, 4)[0], expected)
    # The padded input covers eight pixels, of which the image has the first five: centres -0.375, -0.125, 0.125, 0.375,
    # 0.625 of the cells.
    part, corner = paste_image(mask, (1.0, 8.0), 1, 5, 0.5)
    np.testing.assert_array_equal(place_part(part, corner, 1, 5)[0], [1, 1, 1, 1, 0])
    assert part.shape == (1, 4) and corner == (0, 0)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_image_frame_equals_resizing_the_whole_mask(threshold: float) -> None:
    rng = np.random.default_rng(7)
    for _ in range(40):
        cells, padded = rng.integers(1, 24, 2), rng.integers(1, 90, 2)
        height, width = (int(rng.integers(1, side + 1)) for side in padded)
        mask = blob(rng, *(int(side) for side in cells))
        values = resized(mask, int(padded[0]), int(padded[1]))
        np.testing.assert_allclose(cv2.resize(mask, (int(padded[1]), int(padded[0]))), values, atol=2e-5)
        part, corner = paste_image(mask, padded.astype(float), height, width, threshold)
        got = place_part(part, corner, height, width)
        expected = values[:height, :width]
        certain = np.abs(expected - threshold) > 1e-4
        np.testing.assert_array_equal(got[certain], expected[certain] >= threshold)
        assert certain.mean() > 0.9


def test_image_frame_with_an_extent_between_pixels() -> None:
    """A padded input of 64 pixels at scale 0.7 covers 91.43 pixels of the original image."""
    rng = np.random.default_rng(3)
    mask, extent = blob(rng, 16, 16), 64 / 0.7
    got = place_part(*paste_image(mask, (extent, extent), 80, 91, 0.5), 80, 91)
    for y, x in rng.integers(0, 80, (300, 2)):
        v, u = (np.clip((pixel + 0.5) * 16 / extent - 0.5, 0, 15) for pixel in (y, x))
        i, j = min(int(v), 14), min(int(u), 14)
        cells = mask[i : i + 2, j : j + 2].astype(np.float64)
        value = np.array([1 - (v - i), v - i]) @ cells @ np.array([1 - (u - j), u - j])
        assert abs(value - 0.5) < 1e-4 or got[y, x] == (value >= 0.5)
    assert 0 < got.sum() < got.size


@pytest.mark.parametrize("extent", [(0.0, 5.0), (5.0, -1.0), (np.nan, 5.0), (np.inf, 5.0)])
def test_image_frame_without_an_extent(extent: tuple[float, float]) -> None:
    assert paste_image(np.ones((4, 4), np.float32), extent, 20, 30)[0].size == 0


@pytest.mark.parametrize("extent", [1e-30, 1e30])
def test_image_frame_of_absurd_extents(extent: float) -> None:
    """One cell covers the whole image."""
    mask = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert place_part(*paste_image(mask, (extent, extent), 5, 6), 5, 6).all()


def test_image_frame_lays_out_the_object_only() -> None:
    """An object of few cells in a picture of 100 megapixels."""
    mask = np.zeros((138, 138), np.float32)
    mask[50:53, 100:102] = 1.0
    tracemalloc.start()
    part, corner = paste_image(mask, (10_000.0, 10_000.0), 10_000, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A cell is 72.46 pixels wide; the value falls to 0.5 at its border: 50 * 72.46 = 3623.2, 53 * 72.46 = 3840.6.
    assert corner == (3623, 7246) and part.shape == (218, 145)
    assert part[40:-40, 40:-40].all() and peak < 4e6
    empty, _ = paste_image(np.zeros((138, 138), np.float32), (1e4, 1e4), 10_000, 10_000)
    assert empty.size == 0


def sampled(mask: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """An affine-framed mask read pixel by pixel in float64, as the definition reads."""
    inverse = np.linalg.inv(np.concatenate([matrix.astype(np.float64), [[0, 0, 1]]]))
    rows, columns = mask.shape
    values = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            u, v, _ = inverse @ [x, y, 1]
            j, i = int(np.floor(u)), int(np.floor(v))
            for row, column in ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)):
                if 0 <= row < rows and 0 <= column < columns:
                    values[y, x] += mask[row, column] * (1 - abs(v - row)) * (1 - abs(u - column))
    return values


def test_affine_frame_by_hand() -> None:
    mask = np.array([[1.0, 0.5], [0.5, 0.25]], np.float32)
    shift = np.array([[1, 0, 3], [0, 1, 2]], np.float32)
    # No half-pixel shift: mask pixel (0, 0) has its value exactly at (3, 2).
    part, corner = paste_affine(mask, shift, 6, 7)
    assert corner == (2, 3) and part.tolist() == [[True, True], [True, False]]
    # Twice the size: values 1, 0.75, 0.5, 0.25 (half of the way to the zeros outside), 0.
    double = np.array([[2, 0, 1], [0, 2, 0]], np.float32)
    part, corner = paste_affine(mask, double, 1, 9, 0.25)
    assert corner == (0, 0) and part.tolist() == [[True] * 5]  # the pixel left of (0, 0) has half of its value, too
    part, corner = paste_affine(mask, double, 1, 9, 0.51)
    assert corner == (0, 1) and part.tolist() == [[True, True]]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_affine_frame_equals_reading_every_pixel(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paste, "_STRIP", 100)  # several strips of rows
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(25):
        angle, scale, shift = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(-1, 2)), rng.uniform(-15, 30, 2)
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        matrix = np.array([[cosine, -sine, shift[0]], [sine * 1.3, cosine, shift[1]]], np.float32)
        mask = blob(rng, int(rng.integers(1, 20)), int(rng.integers(1, 20)))
        expected = sampled(mask, matrix, 30, 37)
        part, corner = paste_affine(mask, matrix, 30, 37, threshold)
        got = place_part(part, corner, 30, 37)
        certain = np.abs(expected - threshold) > 1e-4
        np.testing.assert_array_equal(got[certain], expected[certain] >= threshold)
        covered += int(got.sum())
        if part.size:
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
    assert covered > 100


@pytest.mark.parametrize(
    "matrix",
    [
        [[0, 0, 5], [0, 0, 5]],
        [[1, 1, 0], [1, 1, 0]],
        [[np.nan, 0, 0], [0, 1, 0]],
        [[np.inf, 0, 0], [0, 1, 0]],
        [[1e-30, 0, 5], [0, 1e-30, 5]],
        [[1, 0, 1000], [0, 1, 0]],
        [[1, 0, 0], [0, 1, -1000]],
        [[1, 0, 3e38], [0, 1, 0]],
    ],
)
def test_affine_frame_without_a_pixel(matrix: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part, _ = paste_affine(np.ones((8, 8), np.float32), np.array(matrix, np.float32), 20, 30)
    assert not part[1:].any() and not part[:, 1:].any()  # a collapsed mask may cover one pixel


def test_affine_frame_of_a_huge_matrix_covers_the_image() -> None:
    matrix = np.array([[1e20, 0, -5e20], [0, 1e20, -5e20]], np.float32)
    assert place_part(*paste_affine(np.ones((20, 20), np.float32), matrix, 9, 8), 9, 8).all()


def test_affine_frame_lays_out_the_object_only() -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[20:30, 30:35] = 1.0
    matrix = np.array([[10, 0, 5000], [0, 10, 7000]], np.float32)
    tracemalloc.start()
    part, corner = paste_affine(mask, matrix, 10_000, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Rows 20..29 lie at 7200..7290 and fade to 0.5 within half a mask pixel, 5 pixels.
    assert corner == (7195, 5295) and part.shape == (101, 51) and part.sum() >= 101 * 51 - 4 * 25
    assert peak < 2e6
    # Through a large part the strips bound the memory: eight arrays of the part would take 800 MB.
    tracemalloc.start()
    whole_image, _ = paste_affine(np.ones((64, 64), np.float32), np.array([[80, 0, 0], [0, 80, 0]]), 5000, 5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole_image.all() and peak < 60e6


@pytest.mark.parametrize("function", [paste_image, paste_affine])
def test_one_pixel_images(function: Callable[..., tuple[np.ndarray, tuple[int, int]]]) -> None:
    placement = (1.0, 1.0) if function is paste_image else np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    for value, expected in ((0.5, [[True]]), (0.49, None)):
        part, corner = function(np.full((1, 1), value, np.float32), placement, 1, 1)
        assert part.size == 0 if expected is None else (part.tolist(), corner) == (expected, (0, 0))


def test_the_module_needs_numpy_alone(repo_root: Path) -> None:
    """Deployment takes the file as it is, without the package around it."""
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('paste', {str(repo_root / 'deploy' / 'common' / 'paste.py')!r})\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(sorted(set(sys.modules) & {'ppdet', 'paddle', 'cv2', 'pycocotools'}), m.paste_box.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["[]", "paste_box"]
