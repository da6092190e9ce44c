"""Conversion of COCO segmentations to bitmaps and label maps, verified by manual calculation."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ppdet.data.transform.functional.masks import (
    decompress_runs,
    is_valid_segmentation,
    paint_labels,
    rasterize,
    valid_polygons,
)

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]


def test_polygon() -> None:
    expected = np.zeros((5, 6), np.uint8)
    expected[1:3, 1:4] = 1
    np.testing.assert_array_equal(rasterize([SQUARE], 5, 6), expected)


def test_several_polygons_are_one_object() -> None:
    both = rasterize([SQUARE, [4, 3, 6, 3, 6, 5, 4, 5]], 5, 6)
    assert both.sum() == 6 + 4 and both[4, 5] == 1


def test_runs_go_down_the_columns() -> None:
    expected = np.array([[0, 1], [0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(rasterize({"size": [3, 2], "counts": [2, 3, 1]}, 3, 2), expected)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(np.repeat(np.repeat(rng.random((9, 7)) < 0.4, 30, 0), 20, 1).astype(np.uint8))
    rle = coco_mask.encode(mask)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    np.testing.assert_array_equal(decompress_runs(rle["counts"]), runs)
    for counts in (rle["counts"], rle["counts"].decode(), runs.tolist()):
        np.testing.assert_array_equal(rasterize({"size": rle["size"], "counts": counts}, *mask.shape), mask)


@pytest.mark.parametrize("counts", ["", "0", "oooo", "\x1e", [5, 5], [-1, 13], ["6", "6"], None, "52:"])
def test_runs_that_do_not_fill_their_size(counts: object) -> None:
    segmentation = {"size": [3, 4], "counts": counts}
    assert not is_valid_segmentation(segmentation)
    with pytest.raises(ValueError, match="neither"):
        rasterize(segmentation, 3, 4)


def test_runs_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2\].*\[2, 3\]"):
        rasterize({"size": [3, 2], "counts": [2, 3, 1]}, 2, 3)


@pytest.mark.parametrize(
    "polygon", [[], [1, 1, 4, 4], [1, 1, 4, 1, 4], [1, 1, 4, 1, 4, float("nan")], [0, 0, 1e9, 0, 5, 5], [[1, 2]], "abc"]
)
def test_invalid_polygons_are_left_out(polygon: object) -> None:
    assert valid_polygons([polygon, SQUARE]) == [SQUARE]
    assert not is_valid_segmentation([polygon])
    assert rasterize([polygon, SQUARE], 5, 6).sum() == 6


@pytest.mark.parametrize("segmentation", [None, [], {}, "text", {"counts": [12]}, {"size": [3], "counts": [3]}])
def test_no_segmentation(segmentation: object) -> None:
    assert not is_valid_segmentation(segmentation)


def test_outline_beyond_the_image_is_cut() -> None:
    assert rasterize([[-10, -10, 20, -10, 20, 20, -10, 20]], 5, 6).sum() == 30


def test_painting_order() -> None:
    masks = np.zeros((4, 1, 8), np.uint8)
    masks[0, 0, 2:4] = 1  # small and listed first, drawn on top of the larger one
    masks[1, 0, 0:6] = 1
    masks[2, 0, 4:8] = 1  # crowd, drawn below all others
    masks[3, 0, 0:2] = 1  # as small as the first one
    painted = paint_labels(masks, np.array([1, 2, 9, 4]), np.array([0, 0, 1, 0], np.uint8), 7)
    assert painted.tolist() == [[4, 4, 1, 1, 2, 2, 255, 255]]
    assert painted.dtype == np.uint8


def test_equal_sizes_later_on_top_and_no_objects() -> None:
    masks = np.ones((2, 1, 3), np.uint8)
    assert paint_labels(masks, np.array([3, 5]), np.zeros(2, np.uint8), 255).tolist() == [[5, 5, 5]]
    nothing = np.zeros((0, 2, 2), np.uint8)
    assert (paint_labels(nothing, np.zeros(0, int), np.zeros(0, np.uint8), 255) == 255).all()
    under = np.array([[1, 2], [3, 4]], np.uint8)
    np.testing.assert_array_equal(paint_labels(nothing, np.zeros(0, int), np.zeros(0, np.uint8), under), under)
