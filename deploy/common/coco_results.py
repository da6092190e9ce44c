"""Detections of an image in COCO's result format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.common.instance_masks import InstanceMasks

__all__ = ["box_results", "mask_results"]


def box_results(
    labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO results of the boxes of one image.

    Args:
        labels: int [n], indices into ``category_ids``.
        scores: [n].
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the original image.
        image_id: id in the annotation file.
        category_ids: the data set's category id of each class.

    Returns:
        a dictionary for each box, whose ``bbox`` is x, y, width, height.
    """
    results = []
    for label, score, (x1, y1, x2, y2) in zip(
        labels.tolist(), scores.astype(float).tolist(), boxes.astype(float).tolist()
    ):
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    return results


def mask_results(
    labels: np.ndarray,
    scores: np.ndarray,
    masks: InstanceMasks,
    image_id: int,
    size: Sequence[int],
    category_ids: Sequence[int],
    threshold: float,
) -> list[dict[str, Any]]:
    """COCO results of the masks of one image, pasted and encoded one at a time.

    Args:
        labels: int [n], indices into ``category_ids``.
        scores: [n]; the scores of the masks replace them where the model gives any.
        masks: n masks.
        image_id: id in the annotation file.
        size: (h, w) of the original image.
        category_ids: the data set's category id of each class.
        threshold: a pixel belongs to a mask if its probability is at least this value.
    """
    results = []
    height, width = int(size[0]), int(size[1])
    scores = scores if masks.scores is None else masks.scores
    for index, (label, score) in enumerate(zip(labels.tolist(), scores.astype(float).tolist())):
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "segmentation": masks.rle(index, height, width, threshold),
                "score": score,
            }
        )
    return results
