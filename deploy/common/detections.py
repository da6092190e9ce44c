"""The detections of one image, and the forms that users need them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from deploy.common.coco_results import box_results, mask_results
from deploy.common.instance_masks import InstanceMasks
from deploy.common.visualizer import draw_detections

__all__ = ["Detections"]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, best first. All coordinates are pixels of the original image.

    Attributes:
        labels: int64 [n], indices into ``class_names``.
        scores: float32 [n], 0..1, scores of the classes.
        boxes: float32 [n, 4] (x1, y1, x2, y2); None if the model predicts no boxes, see :attr:`bounding_boxes`.
        masks: n masks; None if the model predicts none.
        size: (h, w) of the image.
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        mask_threshold: a pixel belongs to a mask if its probability is at least this value.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    masks: InstanceMasks | None
    size: tuple[int, int]
    class_names: Sequence[str]
    category_ids: Sequence[int]
    mask_threshold: float = 0.5

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.labels)

    @property
    def display_scores(self) -> np.ndarray:
        """float32 [n]: the scores of the masks where the model rates them separately, else the scores of the classes.

        Pictures show these scores, and thresholds apply to them.
        """
        return self.scores if self.masks is None or self.masks.scores is None else self.masks.scores

    @cached_property
    def bounding_boxes(self) -> np.ndarray:
        """float32 [n, 4] (x1, y1, x2, y2): the model's boxes, or those of the bitmaps if the model predicts no boxes.

        The box of an empty bitmap is all zeros.
        """
        if self.boxes is not None:
            return self.boxes
        if self.masks is None:
            return np.zeros((len(self), 4), np.float32)
        return self.masks.bounding_boxes(*self.size, self.mask_threshold)

    @property
    def rows(self) -> np.ndarray:
        """float32 [n, 6]: label, score of the class, and bounding box of each detection."""
        columns = self.labels[:, None], self.scores[:, None], self.bounding_boxes
        return np.concatenate([column.astype(np.float32) for column in columns], axis=1)

    def above(self, threshold: float) -> Detections:
        """Return the detections with a score (see :attr:`display_scores`) of at least ``threshold``."""
        kept = self.display_scores >= threshold
        return replace(
            self,
            labels=self.labels[kept],
            scores=self.scores[kept],
            boxes=None if self.boxes is None else self.boxes[kept],
            masks=None if self.masks is None else self.masks[kept],
        )

    def bitmap(self, index: int) -> np.ndarray:
        """Mask of one detection on the image: uint8 [h, w] of 0 and 1.

        Raises:
            ValueError: the model predicts no masks.
        """
        return self._masks().bitmap(index, *self.size, self.mask_threshold)

    def rle(self, index: int) -> dict[str, Any]:
        """Mask of one detection in COCO's run-length encoding: ``size`` [h, w] and ``counts``, a string.

        Raises:
            ValueError: the model predicts no masks.
        """
        return self._masks().rle(index, *self.size, self.mask_threshold)

    def polygons(self, index: int) -> list[list[float]]:
        """Outlines of one detection's mask, [x1, y1, x2, y2, ...] each, through the centres of the border pixels.

        The coordinates are pixel indices: (0, 0) is the centre of the upper left pixel. A mask in several pieces has
        several outlines, the longest first; holes, and pieces of one or two pixels, are left out.

        Raises:
            ValueError: the model predicts no masks.
        """
        part, (top, left) = self._masks().part(index, *self.size, self.mask_threshold)
        if not part.size:
            return []
        contours, _ = cv2.findContours(
            part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        outlines = [contour.reshape(-1).astype(float).tolist() for contour in contours if len(contour) >= 3]
        return sorted(outlines, key=len, reverse=True)

    def draw(self, image: np.ndarray, alpha: float = 0.4) -> np.ndarray:
        """Draw all detections on a copy of the image.

        Args:
            image: uint8 [h, w, 3] RGB, the one that was predicted.
            alpha: opacity of the masks.

        Returns:
            uint8 [h, w, 3] RGB.
        """
        scores, masks, boxes = self.display_scores, self.masks, self.bounding_boxes
        if self.boxes is None:  # nothing marks the place of an empty mask without a box
            boxes = np.where(boxes.any(axis=1, keepdims=True), boxes, np.float32(np.nan))
        return draw_detections(image, self.labels, scores, boxes, masks, self.class_names, alpha, self.mask_threshold)

    def to_coco(self, image_id: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return COCO results of the boxes ([x, y, width, height]) and of the masks (run lengths), ready for JSON.

        The first list is empty if the model predicts no boxes, the second one if it predicts no masks. Boxes have the
        scores of the classes, masks have their own scores where the model gives any.
        """
        boxes, masks = [], []
        if self.boxes is not None:
            boxes = box_results(self.labels, self.scores, self.boxes, image_id, self.category_ids)
        if self.masks is not None:
            masks = mask_results(
                self.labels, self.scores, self.masks, image_id, self.size, self.category_ids, self.mask_threshold
            )
        return boxes, masks

    def _masks(self) -> InstanceMasks:
        if self.masks is None:
            raise ValueError("the model predicts no masks")
        return self.masks
