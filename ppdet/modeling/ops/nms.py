"""Non-maximum suppression of a whole batch in one operator, and the way back to fixed slots.

Symbols: B images, M candidates per image, C classes, N rows of the whole batch, S slots per image.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, _C_ops

from ppdet.modeling.ops.onnx_form import in_onnx_form
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.shapes import positions
from ppdet.utils.program import in_legacy_program

__all__ = ["best_of_each_class", "image_of_rows", "multiclass_nms", "rows_to_slots"]

_GPU_KERNEL_MAX = 4096
"""Limit of candidates per class in Paddle's GPU kernel; with more the operator runs on the CPU."""


def _append_multiclass_nms(inputs: dict[str, Tensor], attrs: dict[str, float | int | bool]) -> tuple[Tensor, Tensor]:
    """Add the operator to a static program of the old kind (Paddle 2.6)."""
    from paddle.base.layer_helper import LayerHelper

    helper = LayerHelper("multiclass_nms3")
    out = helper.create_variable_for_type_inference(dtype="float32")
    index = helper.create_variable_for_type_inference(dtype="int32")
    counts = helper.create_variable_for_type_inference(dtype="int32")
    helper.append_op(
        type="multiclass_nms3",
        inputs=inputs,
        outputs={"Out": out, "Index": index, "NmsRoisNum": counts},
        attrs=attrs,
    )
    return out, counts


def best_of_each_class(scores: Tensor, limit: int) -> Tensor:
    """Set the scores of all but the best candidates of each class to zero.

    The limit of the suppression operator does not serve for this. Its GPU kernel refuses a limit above the number of
    candidates, which is unknown when a graph is exported, and a limit below the number of detections to keep.

    Args:
        scores: [B, C, M] in 0..1.
        limit: candidates of a class to keep; the first ones among equal scores.

    Returns:
        [B, C, M] float32.
    """
    scores = as_float32(scores)
    # Float64 can represent a float32 score together with the index, which makes all keys different.
    keys = scores.astype("float64") - positions(scores[0, 0]).astype("float64") * 2.0**-50
    rank = paddle.argsort(paddle.argsort(keys, axis=-1, descending=True), axis=-1)
    return scores * (rank < limit).astype("float32")


def multiclass_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, keep: int, per_class: int = -1
) -> tuple[Tensor, Tensor]:
    """Remove, within each class, boxes whose IoU with a better one is above a threshold; keep the best of each image.

    Args:
        boxes: [B, M, 4] for all classes, or [B, M, C, 4] if they depend on the class.
        scores: [B, C, M]; candidates take part with scores strictly above the threshold.
        score_threshold: not negative.
        iou_threshold: boxes with exactly this IoU remain.
        keep: limit of rows per image, over all classes; -1 for all.
        per_class: upper bound of the candidates of a class that the caller knows, with which a GPU kernel can run; -1
            for none.

    Returns:
        rows [N, 6] (class, score, x1, y1, x2, y2) image by image, not sorted within an image; rows per image [B]
        int32. N may be 0.
    """
    boxes, scores = as_float32(boxes), as_float32(scores)
    if in_onnx_form() and keep > 0:
        return _nms_without_limit(boxes, scores, score_threshold, iou_threshold, keep)
    rois_num = None
    if len(boxes.shape) == 4:
        batch, candidates, classes = scores.shape[0], scores.shape[2], scores.shape[1]
        rois_num = paddle.zeros([batch], dtype="int32") + candidates
        boxes = boxes.reshape([-1, classes, 4])
        scores = scores.transpose([0, 2, 1]).reshape([-1, classes])
    elif paddle.in_dynamic_mode():
        # The GPU kernel requires keep <= per_class <= M; with -1 the operator runs on the CPU.
        per_class = min(per_class, boxes.shape[1]) if per_class > 0 else boxes.shape[1]
        if per_class > _GPU_KERNEL_MAX or keep > per_class:
            per_class = -1
    else:
        per_class = -1
    if in_legacy_program():
        inputs = {"BBoxes": boxes, "Scores": scores}
        if rois_num is not None:
            inputs["RoisNum"] = rois_num
        attrs = dict(
            score_threshold=score_threshold,
            nms_top_k=per_class,
            keep_top_k=keep,
            nms_threshold=iou_threshold,
            normalized=True,
            nms_eta=1.0,
            background_label=-1,
        )
        return _append_multiclass_nms(inputs, attrs)
    rows, _, counts = _C_ops.multiclass_nms3(
        boxes, scores, rois_num, score_threshold, per_class, keep, iou_threshold, True, 1.0, -1
    )
    return rows, counts


def _nms_without_limit(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Suppress without the limit ``keep`` of the operator and select the best rows of each image afterwards."""
    if len(boxes.shape) == 3:
        rows, counts = multiclass_nms(boxes, scores, score_threshold, iou_threshold, -1)
    else:  # each class of each image as an image with one class
        classes = scores.shape[1]
        boxes, scores = boxes.transpose([0, 2, 1, 3]).flatten(0, 1), scores.flatten(0, 1).unsqueeze(1)
        rows, counts = multiclass_nms(boxes, scores, score_threshold, iou_threshold, -1)
        label = image_of_rows(rows, counts)[0] % classes
        rows = paddle.concat([label.astype("float32").unsqueeze(1), rows[:, 1:]], axis=1)
        counts = counts.reshape([-1, classes]).sum(axis=1).astype("int32")
    image, position = image_of_rows(rows, counts)
    # Sorts by image, then by score, see BBoxPostProcess. Sorting does not change which positions an image has.
    order = paddle.argsort(image.astype("float64") * 2.0 - rows[:, 1].astype("float64"))
    kept = paddle.gather(order, paddle.nonzero(position < keep).flatten())
    return paddle.gather(rows, kept), counts.clip(max=keep)


def image_of_rows(rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image of each row of a ragged batch, and the position of the row in it.

    Args:
        rows: [N, ...], image by image.
        counts: [B] rows per image.

    Returns:
        index of the image [N] int64 and position within the image [N] int64.
    """
    counts = counts.astype("int64")
    ends = paddle.cumsum(counts)
    index = positions(rows[:, 0])
    image = (index.unsqueeze(1) >= ends.unsqueeze(0)).astype("int64").sum(axis=1)
    # A spare row at the end, which is not counted, is assigned to the last image.
    image = paddle.minimum(image, positions(counts).max())
    return image, index - paddle.gather(ends - counts, image)


def rows_to_slots(rows: Tensor, counts: Tensor, slots: int | Tensor) -> tuple[Tensor, Tensor]:
    """Lay a ragged batch out in a fixed number of slots per image.

    Args:
        rows: [N, D], image by image.
        counts: [B] rows per image, at most S.
        slots: S.

    Returns:
        [B, S, D] with zeros in empty slots, and [B, S] bool, False for empty slots.
    """
    batch, width = counts.shape[0], rows.shape[1]
    # A spare row, which goes to a spare slot, avoids empty tensors, which Paddle 2.6 refuses.
    rows = paddle.concat([rows, paddle.zeros([1, width], dtype=rows.dtype)])
    image, position = image_of_rows(rows, counts)
    target = image * slots + position
    last = paddle.ones_like(target[-1:]) * (batch * slots)
    target = paddle.concat([target[:-1], last])
    flat = paddle.zeros([batch * slots + 1, width], dtype=rows.dtype)
    flat = paddle.scatter(flat, target, rows)[:-1].reshape([batch, -1, width])
    valid = positions(flat[0, :, 0]).unsqueeze(0) < counts.astype("int64").unsqueeze(1)
    return flat, valid
