"""Masks of all frames through one interface."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from deploy.common.instance_masks import MASK_FRAMES, InstanceMasks

SIZE = (20, 30)
"""(h, w) of the original image."""


def masks(frame: str) -> InstanceMasks:
    """Three masks of 4 x 4 cells in each frame: pixels 4..11 x 8..15, 4..7 x 8..11, and none."""
    values = np.zeros((3, 4, 4), np.float32)
    if frame == "box":
        values[0], values[1, :2, :2] = 1.0, 1.0
        return InstanceMasks(values, boxes=np.array([[8, 4, 16, 12]] * 3, np.float32))
    if frame == "image":
        values[0, 1:3, 1:3], values[1, 1, 1] = 1.0, 1.0
        return InstanceMasks(values, "image", extent=(16.0, 32.0))
    values[0], values[1, :2, :2] = 1.0, 1.0
    return InstanceMasks(values, "affine", matrices=np.array([[[2, 0, 8.5], [0, 2, 4.5]]] * 3, np.float32))


EXPECTED = {
    "box": [(8, 4, 16, 12), (8, 4, 12, 8)],
    # Cells of 4 x 8 pixels. A single one: at x = 8, 3.5 pixels from its centre, 9 / 16 * 7 / 8 of its value is left.
    "image": [(8, 4, 24, 12), (9, 4, 15, 8)],
    "affine": [(8, 4, 16, 12), (8, 4, 12, 8)],
}
"""Boxes (x1, y1, x2, y2) that the first two masks fill but for rounded corners; the third one is empty."""


@pytest.mark.parametrize("frame", MASK_FRAMES)
def test_part_bitmap_rle_and_box_agree(frame: str) -> None:
    found = masks(frame)
    assert len(found) == 3
    boxes = found.bounding_boxes(*SIZE)
    for index, expected in enumerate(EXPECTED[frame]):
        part, (top, left) = found.part(index, *SIZE)
        bitmap = found.bitmap(index, *SIZE)
        assert bitmap.shape == SIZE and bitmap.dtype == np.uint8 and bitmap.sum() == part.sum()
        np.testing.assert_array_equal(bitmap[top : top + part.shape[0], left : left + part.shape[1]], part)
        np.testing.assert_array_equal(coco_mask.decode(found.rle(index, *SIZE)), bitmap)
        assert tuple(boxes[index]) == expected
        x1, y1, x2, y2 = expected
        corners = 12  # a bilinear corner loses up to three pixels
        assert (x2 - x1) * (y2 - y1) - corners <= bitmap.sum() <= (x2 - x1) * (y2 - y1)
    assert not found.bitmap(2, *SIZE).any() and not boxes[2].any() and found.part(2, *SIZE)[0].size == 0


@pytest.mark.parametrize("frame", MASK_FRAMES)
def test_selection_keeps_everything_together(frame: str) -> None:
    full = masks(frame)
    found = InstanceMasks(
        full.values, frame, full.boxes, full.extent, full.matrices, np.array([0.5, 0.6, 0.7], np.float32)
    )
    for selection in (np.array([False, True, False]), np.array([1]), slice(1, 2)):
        chosen = found[selection]
        assert len(chosen) == 1 and chosen.scores is not None and chosen.scores.tolist() == pytest.approx([0.6])
        np.testing.assert_array_equal(chosen.bitmap(0, *SIZE), found.bitmap(1, *SIZE))
    none = found[np.zeros(3, bool)]
    assert len(none) == 0 and none.bounding_boxes(*SIZE).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"frame": "world"}, "unknown mask frame 'world'; expected box, image, affine"),
        ({}, "frame 'box' need boxes"),
        ({"frame": "image"}, "frame 'image' need extent"),
        ({"frame": "affine"}, "frame 'affine' need matrices"),
        ({"boxes": np.zeros((3, 4))}, "2 masks, but 3 boxes"),
        ({"boxes": np.zeros((2, 4)), "scores": np.zeros(1)}, "2 masks, but 1 boxes"),
    ],
)
def test_arrays_that_do_not_fit(arguments: dict[str, object], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        InstanceMasks(np.zeros((2, 4, 4), np.float32), **arguments)  # type: ignore[arg-type]
