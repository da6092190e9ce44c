"""Instance masks of one image, in whichever frame the model predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.common.paste import Corner, paste_affine, paste_box, paste_image, place_part
from deploy.common.rle import encode

__all__ = ["MASK_FRAMES", "InstanceMasks"]

MASK_FRAMES = ("box", "image", "affine")
"""The frames that masks may be predicted in, see :mod:`deploy.common.paste`."""


@dataclass(frozen=True, eq=False)
class InstanceMasks:
    """Mask probabilities of the detections of one image, and what is needed to paste them into it.

    Attributes:
        values: float32 [n, h, w], probabilities.
        frame: ``box``, ``image`` or ``affine``.
        boxes: float32 [n, 4] (x1, y1, x2, y2) in pixels of the original image, for the frame ``box``.
        extent: (height, width) of the padded network input in pixels of the original image, for the frame ``image``.
        matrices: float32 [n, 2, 3], from mask pixel indices (x, y, 1) to pixel indices of the original image, for the
            frame ``affine``.
        scores: float32 [n], scores of the masks where the model rates them separately from the classes; else None.

    Raises:
        ValueError: an unknown frame, or arrays that the frame needs are missing or of another length.
    """

    values: np.ndarray
    frame: str = "box"
    boxes: np.ndarray | None = None
    extent: Sequence[float] | None = None
    matrices: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that the arrays fit together."""
        if self.frame not in MASK_FRAMES:
            raise ValueError(f"unknown mask frame '{self.frame}'; expected {', '.join(MASK_FRAMES)}")
        needed = {"box": self.boxes, "image": self.extent, "affine": self.matrices}[self.frame]
        if needed is None:
            name = {"box": "boxes", "image": "extent", "affine": "matrices"}[self.frame]
            raise ValueError(f"masks in the frame '{self.frame}' need {name}")
        for array in (self.boxes, self.matrices, self.scores):
            if array is not None and len(array) != len(self.values):
                raise ValueError(f"{len(self.values)} masks, but {len(array)} boxes, matrices or scores")

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.values)

    def __getitem__(self, selection: Any) -> InstanceMasks:
        """Select masks by a boolean array, an array of indices or a slice."""

        def selected(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[selection]

        return InstanceMasks(
            self.values[selection],
            self.frame,
            selected(self.boxes),
            self.extent,
            selected(self.matrices),
            selected(self.scores),
        )

    def part(self, index: int, height: int, width: int, threshold: float = 0.5) -> tuple[np.ndarray, Corner]:
        """The part of one mask's bitmap that holds all of its pixels.

        Args:
            index: of the mask.
            height: of the original image.
            width: of the original image.
            threshold: a pixel belongs to the mask if its probability is at least this value.

        Returns:
            bool [h, w] and the (y, x) of its upper left corner in the image; empty (h or w is 0) for an empty mask.
        """
        mask = self.values[index]
        if self.frame == "image":
            assert self.extent is not None
            return paste_image(mask, self.extent, height, width, threshold)
        if self.frame == "affine":
            assert self.matrices is not None
            return paste_affine(mask, self.matrices[index], height, width, threshold)
        assert self.boxes is not None
        return paste_box(mask, self.boxes[index], height, width, threshold)

    def bitmap(self, index: int, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
        """One mask laid out on the image: uint8 [height, width] of 0 and 1. See :meth:`part` for the arguments."""
        return place_part(*self.part(index, height, width, threshold), height, width)

    def rle(self, index: int, height: int, width: int, threshold: float = 0.5) -> dict[str, Any]:
        """One mask in COCO's run-length encoding: ``size`` [height, width] and ``counts``, a string.

        See :meth:`part` for the arguments.
        """
        return encode(*self.part(index, height, width, threshold), height, width)

    def bounding_boxes(self, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
        """Boxes of the bitmaps, float32 [n, 4] (x1, y1, x2, y2); all zeros for an empty mask.

        Like a model's boxes they enclose the pixels: x2 - x1 is the number of columns. See :meth:`part` for the
        arguments.
        """
        boxes = np.zeros((len(self), 4), np.float32)
        for index in range(len(self)):
            part, (top, left) = self.part(index, height, width, threshold)
            rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            if rows.size:
                boxes[index] = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        return boxes
