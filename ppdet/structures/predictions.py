"""What a model predicts for a batch, typed.

Symbols: B images, N detections of the whole batch (image after image), h x w the size of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor

from ppdet.structures.shapes import without_last

__all__ = ["DETECTION_OUTPUTS", "MASK_FRAMES", "Candidates", "MaskFrame", "Predictions", "output_names"]

MaskFrame = Literal["box", "image", "affine"]
MASK_FRAMES: tuple[MaskFrame, ...] = ("box", "image", "affine")
DETECTION_OUTPUTS = ("bbox", "instances", "mask", "mask_matrix", "mask_score")
"""Outputs whose first axis counts the detections of a batch; that of all others counts its images."""
_PLACEMENT = {"image": "mask_extent", "affine": "mask_matrix"}
"""The output that places masks of a frame on the original image; a box places itself."""


def output_names(
    has_boxes: bool, mask_frame: MaskFrame | None = None, has_mask_scores: bool = False
) -> tuple[str, ...]:
    """Names of the tensors that leave a model, in their order.

    Args:
        has_boxes: the model predicts boxes.
        mask_frame: frame of its masks, None for a model without masks.
        has_mask_scores: masks have scores of their own.
    """
    names = ["bbox" if has_boxes else "instances", "bbox_num"]
    if mask_frame is not None:
        names.append("mask")
        names += [_PLACEMENT[mask_frame]] if mask_frame in _PLACEMENT else []
        names += ["mask_score"] if has_mask_scores else []
    return tuple(names)


@dataclass(frozen=True)
class Predictions:
    """Detections of a batch: those of the first image, best first, then those of the second, and so on.

    Attributes:
        scores: [N] float32 in 0..1.
        labels: [N] int64 in 0..K-1.
        counts: [B] int32, detections of each image.
        boxes: [N, 4] float32 (x1, y1, x2, y2) in pixels of the original image, or None for a model that predicts no
            boxes.
        masks: [N, h, w] float32 probabilities, or None for a model that predicts no masks.
        mask_frame: what a mask is laid over: ``box``, its own box; ``image``, the padded network input; ``affine``,
            the image through a matrix of its own.
        mask_extent: [B, 2] float32 (height, width) of each padded network input in pixels of the original image, for
            masks in the frame ``image``.
        mask_matrices: [N, 2, 3] float32 that map pixel indices (x, y, 1) of a mask to pixel indices of the original
            image, for masks in the frame ``affine``.
        mask_scores: [N] float32, scores of the masks where they differ from those of the boxes, or None.

    Raises:
        ValueError: boxes or tensors that the frame needs are missing, or tensors of another frame are given.
    """

    scores: Tensor
    labels: Tensor
    counts: Tensor
    boxes: Tensor | None = None
    masks: Tensor | None = None
    mask_frame: MaskFrame = "box"
    mask_extent: Tensor | None = None
    mask_matrices: Tensor | None = None
    mask_scores: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mask_frame not in MASK_FRAMES:
            raise ValueError(f"mask_frame is {self.mask_frame!r}, expected one of {', '.join(MASK_FRAMES)}")
        optional = {
            "mask_extent": self.mask_extent,
            "mask_matrices": self.mask_matrices,
            "mask_scores": self.mask_scores,
        }
        needed = {"image": "mask_extent", "affine": "mask_matrices"}.get(self.mask_frame) if self.has_masks else None
        for name, value in optional.items():
            if name == needed and value is None:
                raise ValueError(f"masks in the frame '{self.mask_frame}' need {name}")
            if name != needed and value is not None and not (name == "mask_scores" and self.has_masks):
                raise ValueError(f"{name} does not belong to masks in the frame '{self.mask_frame}'")
        if self.has_masks and self.mask_frame == "box" and not self.has_boxes:
            raise ValueError("masks in the frame 'box' need boxes")

    @property
    def has_boxes(self) -> bool:
        """Whether there are boxes to measure."""
        return self.boxes is not None

    @property
    def has_masks(self) -> bool:
        """Whether there are masks to measure."""
        return self.masks is not None

    def to_outputs(self) -> dict[str, Tensor]:
        """Return the tensors by the names under which they leave a model, in the order of `output_names`.

        Returns:
            ``bbox`` [N, 6] (label, score, x1, y1, x2, y2), or ``instances`` [N, 2] (label, score) without boxes;
            ``bbox_num`` [B]; with masks also ``mask`` [N, h, w], ``mask_extent`` [B, 2] or ``mask_matrix`` [N, 2, 3]
            as the frame needs them, and ``mask_score`` [N].
        """
        rows = _columns_to_rows([self.labels, self.scores, *([] if self.boxes is None else [self.boxes])])
        named = {
            "instances" if self.boxes is None else "bbox": rows,
            "bbox_num": self.counts,
            "mask": self.masks,
            "mask_extent": self.mask_extent,
            "mask_matrix": self.mask_matrices,
            "mask_score": self.mask_scores,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to_host(self) -> dict[str, np.ndarray]:
        """Return `to_outputs` as arrays on the host, half precision as float32; waits for the device."""
        arrays = {name: np.asarray(tensor.numpy()) for name, tensor in self.to_outputs().items()}
        half = np.dtype(np.float16)
        return {name: array.astype(np.float32) if array.dtype == half else array for name, array in arrays.items()}


@dataclass(frozen=True)
class Candidates:
    """Boxes of a batch before suppression.

    Attributes:
        boxes: [B, M, 4], or class by class [B, M, K, 4], float32 xyxy in pixels of the network input.
        probability: [B, M, K + 1] float32, background last.
        valid: [B, M] bool, False where a slot holds no candidate.
    """

    boxes: Tensor
    probability: Tensor
    valid: Tensor


def _columns_to_rows(columns: Sequence[Tensor]) -> Tensor:
    """Join tensors [N] and [N, C] of any types as the columns of one float32 table.

    A spare row goes along: Paddle 2.6 refuses to concatenate if all inputs are empty, and oneDNN crashes.
    """
    padded = [paddle.concat([x, paddle.zeros([1, *x.shape[1:]], dtype=x.dtype)]) for x in columns]
    matrices = [x if len(x.shape) == 2 else x.unsqueeze(1) for x in padded]
    return without_last(paddle.concat([x.astype("float32") for x in matrices], axis=1))[0]
