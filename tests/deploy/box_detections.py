"""Detections as a two-stage detector predicts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.common.detections import Detections
from deploy.common.instance_masks import InstanceMasks
from deploy.common.model_outputs import split_outputs

__all__ = ["box_detections", "box_masks"]


def box_masks(values: np.ndarray, rows: np.ndarray) -> InstanceMasks:
    """Masks in the frames of the boxes of rows [n, 6]."""
    return InstanceMasks(values, "box", boxes=rows[:, 2:])


def box_detections(
    rows: np.ndarray,
    masks: np.ndarray | None,
    size: tuple[int, int],
    names: Sequence[str],
    ids: Sequence[int],
    mask_threshold: float = 0.5,
) -> Detections:
    """One image's detections from rows [n, 6] and masks [n, s, s]."""
    outputs = {"bbox": rows, "bbox_num": np.array([len(rows)])}
    if masks is not None:
        outputs["mask"] = masks
    return split_outputs(outputs, [size], names, ids, mask_threshold)[0]
