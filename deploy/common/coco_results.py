"""Predictions of a model in COCO's result format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deploy.common.paste import paste_bitmap
from deploy.common.rle import encode

__all__ = ["box_results", "mask_results", "split_images"]


def split_images(outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the rows [n, 6] and masks [n, s, s] (or None) of each image of a batch."""
    begin = 0
    masks = outputs.get("mask")
    for count in np.asarray(outputs["bbox_num"]).astype(int):
        end = begin + int(count)
        yield outputs["bbox"][begin:end], None if masks is None else masks[begin:end]
        begin = end


def box_results(rows: np.ndarray, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Boxes of one image; ``bbox`` is x, y, width, height in original pixels."""
    results = []
    for label, score, x1, y1, x2, y2 in rows.astype(float).tolist():
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(label)],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    return results


def mask_results(
    rows: np.ndarray,
    masks: np.ndarray,
    image_id: int,
    size: Sequence[int],
    category_ids: Sequence[int],
    threshold: float,
) -> list[dict[str, Any]]:
    """Masks of one image, pasted and encoded one at a time; only the part that the object covers is laid out.

    Args:
        rows: [n, 6] (label, score, box in original pixels).
        masks: [n, s, s] probabilities in the boxes' frames.
        image_id: id in the annotation file.
        size: (h, w) of the original image.
        category_ids: the data set's category id of each class.
        threshold: see :func:`~deploy.common.paste.paste_bitmap`.
    """
    results = []
    height, width = int(size[0]), int(size[1])
    for row, mask in zip(rows, masks):
        part, corner = paste_bitmap(mask, row[2:], height, width, threshold)
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(row[0])],
                "segmentation": encode(part, corner, height, width),
                "score": float(row[1]),
            }
        )
    return results
