"""The named output arrays of a model, checked and split into the detections of each image.

Symbols: B images, N detections of the whole batch, image by image and best first.

=============== ================= ======================================================================
``bbox``        float32 [N, 6]    label, score, x1, y1, x2, y2 in pixels of the original image
``instances``   float32 [N, 2]    label, score; in place of ``bbox`` for a model without boxes
``bbox_num``    int32 [B]         number of detections of each image
``mask``        float32 [N, h, w] mask probabilities, if the model predicts masks
``mask_extent`` float32 [B, 2]    height and width of the padded network input in pixels of the original
                                  image; makes ``image`` the frame of the masks
``mask_matrix`` float32 [N, 2, 3] from mask pixel indices to pixel indices of the original image; makes
                                  ``affine`` the frame of the masks
``mask_score``  float32 [N]       scores of the masks, where they differ from those of the classes
=============== ================= ======================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from deploy.common.detections import Detections
from deploy.common.errors import UserError
from deploy.common.instance_masks import InstanceMasks

__all__ = ["OUTPUT_NAMES", "check_outputs", "mask_frame", "split_outputs"]

OUTPUT_NAMES = ("bbox", "instances", "bbox_num", "mask", "mask_extent", "mask_matrix", "mask_score")
"""All known outputs, in the order in which they leave a model."""

_FRAME_OUTPUTS = {"mask_extent": "image", "mask_matrix": "affine"}


def mask_frame(names: Collection[str]) -> str:
    """Return the frame of the masks of a model with these outputs."""
    return next((frame for name, frame in _FRAME_OUTPUTS.items() if name in names), "box")


def split_outputs(
    outputs: Mapping[str, np.ndarray],
    sizes: Sequence[Sequence[int]] | np.ndarray,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    mask_threshold: float = 0.5,
) -> list[Detections]:
    """Split the outputs of a batch into the detections of each image.

    Args:
        outputs: arrays by name, see the head of this file.
        sizes: (h, w) of each original image.
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        mask_threshold: a pixel belongs to a mask if its probability is at least this value.
    """
    has_boxes = "bbox" in outputs
    rows = np.asarray(outputs["bbox" if has_boxes else "instances"])
    ends = np.cumsum(np.asarray(outputs["bbox_num"]).reshape(-1)).astype(int)
    detections = []
    for image, (end, size) in enumerate(zip(ends, sizes)):
        part = slice(ends[image - 1] if image else 0, end)
        boxes = rows[part, 2:6] if has_boxes else None
        detections.append(
            Detections(
                labels=rows[part, 0].astype(np.int64),
                scores=rows[part, 1],
                boxes=boxes,
                masks=_masks_of_image(outputs, image, part, boxes),
                size=(int(size[0]), int(size[1])),
                class_names=class_names,
                category_ids=category_ids,
                mask_threshold=mask_threshold,
            )
        )
    return detections


def _masks_of_image(
    outputs: Mapping[str, np.ndarray], image: int, part: slice, boxes: np.ndarray | None
) -> InstanceMasks | None:
    if "mask" not in outputs:
        return None
    frame = mask_frame(outputs)
    extent = outputs["mask_extent"][image] if frame == "image" else None
    return InstanceMasks(
        outputs["mask"][part],
        frame,
        boxes=boxes if frame == "box" else None,
        extent=None if extent is None else (float(extent[0]), float(extent[1])),
        matrices=outputs["mask_matrix"][part] if frame == "affine" else None,
        scores=outputs["mask_score"][part] if "mask_score" in outputs else None,
    )


def check_outputs(
    outputs: Mapping[str, np.ndarray],
    images: int,
    classes: int | None,
    source: object,
    remedy: str = "export the model again",
) -> None:
    """Check that arrays from a model are what their names promise.

    Args:
        outputs: arrays by name.
        images: number of images in the batch.
        classes: number of classes, None if it is not known.
        source: what returned the arrays, for the message.
        remedy: end of the message.

    Raises:
        UserError: an array is missing, or has another type or shape.
    """
    key = "instances" if "instances" in outputs else "bbox"
    rows, counts = outputs.get(key), outputs.get("bbox_num")
    columns = 2 if key == "instances" else 6
    valid = rows is not None and rows.ndim == 2 and rows.shape[1] == columns and rows.dtype.kind == "f"
    if not valid or counts is None or counts.size != images or counts.dtype.kind not in "iu":
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
        raise UserError(
            f"{source} returns {shapes or 'nothing'} instead of {key} [N, {columns}] and bbox_num [{images}]: {remedy}"
        )
    assert rows is not None
    if (counts < 0).any() or int(counts.sum()) != len(rows):
        raise UserError(
            f"{source} returns {len(rows)} detections, but bbox_num is {counts.reshape(-1).tolist()}: {remedy}"
        )
    labels = rows[:, 0]
    wrong = labels[~((labels >= 0) & (labels < (np.inf if classes is None else classes)))]
    if len(wrong):
        raise UserError(f"{source} returns class {wrong[0]:g}, but there are {classes} class names: {remedy}")
    _check_masks(outputs, len(rows), images, source, remedy)


def _check_masks(outputs: Mapping[str, np.ndarray], detections: int, images: int, source: object, remedy: str) -> None:
    """Check the arrays that belong to the masks; see `check_outputs`."""
    expected: dict[str, tuple[Any, ...]] = {
        "mask": (detections, None, None),
        "mask_extent": (images, 2),
        "mask_matrix": (detections, 2, 3),
        "mask_score": (detections,),
    }
    for name, shape in expected.items():
        array = outputs.get(name)
        if array is None:
            continue
        fits = array.ndim == len(shape) and all(side in (None, size) for side, size in zip(shape, array.shape))
        if array.dtype != np.float32 or not fits or (array.ndim == 3 and 0 in array.shape[1:]):
            described = ", ".join("any" if side is None else str(side) for side in shape)
            raise UserError(
                f"{source} returns {name} {array.dtype} {list(array.shape)} instead of float32 [{described}]: {remedy}"
            )
