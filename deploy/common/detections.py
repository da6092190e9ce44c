"""What was found on one image, and the forms that users want it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from deploy.common.coco_results import box_results, mask_results
from deploy.common.paste import paste_bitmap, paste_mask
from deploy.common.rle import encode
from deploy.common.visualizer import draw_detections

__all__ = ["Detections"]


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first. All coordinates are pixels of the original image.

    Attributes:
        rows: float32 [n, 6]: label, score, x1, y1, x2, y2.
        masks: float32 [n, 28, 28], probabilities in the frame of each box; None if the model has no masks.
        size: (h, w) of the image.
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        mask_threshold: a pixel belongs to a mask from this probability on.
    """

    rows: np.ndarray
    masks: np.ndarray | None
    size: tuple[int, int]
    class_names: Sequence[str]
    category_ids: Sequence[int]
    mask_threshold: float = 0.5

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.rows)

    def above(self, threshold: float) -> Detections:
        """Return those with a score of at least ``threshold``."""
        kept = self.rows[:, 1] >= threshold
        return replace(self, rows=self.rows[kept], masks=None if self.masks is None else self.masks[kept])

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], places in ``class_names``."""
        return self.rows[:, 0].astype(np.int64)

    @property
    def scores(self) -> np.ndarray:
        """float32 [n], 0..1."""
        return self.rows[:, 1]

    @property
    def boxes(self) -> np.ndarray:
        """float32 [n, 4]: x1, y1, x2, y2."""
        return self.rows[:, 2:]

    def bitmap(self, index: int) -> np.ndarray:
        """Mask of one detection on the image: uint8 [h, w] of 0 and 1.

        Raises:
            ValueError: the model has no masks.
        """
        return paste_mask(self._mask(index), self.boxes[index], *self.size, self.mask_threshold)

    def rle(self, index: int) -> dict[str, Any]:
        """Mask of one detection as COCO's run lengths: ``size`` [h, w] and ``counts``, a text.

        Raises:
            ValueError: the model has no masks.
        """
        part, corner = self._part(index)
        return encode(part, corner, *self.size)

    def polygons(self, index: int) -> list[list[float]]:
        """Outlines of one detection's mask, [x1, y1, x2, y2, ...] each, through the centres of the border pixels.

        The coordinates are pixel indices: (0, 0) is the centre of the upper left pixel. A mask in several pieces has
        several outlines, the longest first; holes, and pieces of one or two pixels, are left out.

        Raises:
            ValueError: the model has no masks.
        """
        part, (top, left) = self._part(index)
        if not part.size:
            return []
        found, _ = cv2.findContours(
            part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        outlines = [outline.reshape(-1).astype(float).tolist() for outline in found if len(outline) >= 3]
        return sorted(outlines, key=len, reverse=True)

    def draw(self, image: np.ndarray, alpha: float = 0.4) -> np.ndarray:
        """Draw all detections on a copy of the image.

        Args:
            image: uint8 [h, w, 3] RGB, the one that was predicted.
            alpha: weight of a mask's colour.

        Returns:
            uint8 [h, w, 3] RGB.
        """
        return draw_detections(image, self.rows, self.masks, self.class_names, alpha, self.mask_threshold)

    def to_coco(self, image_id: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return COCO results of the boxes ([x, y, width, height]) and of the masks (run lengths), ready for JSON.

        The second list is empty if the model has no masks.
        """
        boxes = box_results(self.rows, image_id, self.category_ids)
        if self.masks is None:
            return boxes, []
        ids, threshold = self.category_ids, self.mask_threshold
        return boxes, mask_results(self.rows, self.masks, image_id, self.size, ids, threshold)

    def _mask(self, index: int) -> np.ndarray:
        if self.masks is None:
            raise ValueError("the model has no masks")
        return np.asarray(self.masks[index])

    def _part(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """The part of the mask that holds all of its pixels, bool, and its upper left corner (y, x)."""
        return paste_bitmap(self._mask(index), self.boxes[index], *self.size, self.mask_threshold)
