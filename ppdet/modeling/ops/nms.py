"""Non-maximum suppression of a whole batch in one operator, and the way back to fixed slots."""

from __future__ import annotations

import paddle
from paddle import Tensor, _C_ops

from ppdet.modeling.ops.onnx_form import in_onnx_form
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.shapes import positions
from ppdet.utils.program import in_legacy_program

__all__ = ["best_of_each_class", "image_of_rows", "multiclass_nms", "rows_to_slots"]

_GPU_KERNEL_MAX = 4096
"""Paddle's GPU kernel takes at most this many candidates per class; above, the operator computes on the CPU."""


def _append_multiclass_nms(inputs: dict[str, Tensor], attrs: dict[str, float | int | bool]) -> tuple[Tensor, Tensor]:
    """The operator in an old-style static program."""
    from paddle.base.layer_helper import LayerHelper

    helper = LayerHelper("multiclass_nms3")
    out = helper.create_variable_for_type_inference(dtype="float32")
    index = helper.create_variable_for_type_inference(dtype="int32")
    number = helper.create_variable_for_type_inference(dtype="int32")
    helper.append_op(
        type="multiclass_nms3",
        inputs=inputs,
        outputs={"Out": out, "Index": index, "NmsRoisNum": number},
        attrs=attrs,
    )
    return out, number


def best_of_each_class(scores: Tensor, most: int) -> Tensor:
    """Scores with zeros for all but the best candidates of each class.

    The suppression's own limit is not used for this: its GPU kernel refuses a limit above the number of candidates,
    which an exported graph cannot know beforehand, and one below the number of detections to keep.

    Args:
        scores: [B, C, M] in 0..1.
        most: candidates of a class to keep; of equal scores the first ones.

    Returns:
        [B, C, M] float32.
    """
    scores = as_float32(scores)
    # Float64 has room for the place behind a score, a float32, which makes all keys different.
    keys = scores.astype("float64") - positions(scores[0, 0]).astype("float64") * 2.0**-50
    rank = paddle.argsort(paddle.argsort(keys, axis=-1, descending=True), axis=-1)
    return scores * (rank < most).astype("float32")


def multiclass_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, keep: int, per_class: int = -1
) -> tuple[Tensor, Tensor]:
    """Suppress, class by class, boxes whose IoU with a better one is above the threshold; keep the best of each image.

    Args:
        boxes: [B, M, 4] shared by all classes, or [B, M, C, 4] with boxes of their own for each class.
        scores: [B, C, M]; only scores strictly above the threshold take part.
        score_threshold: not negative.
        iou_threshold: boxes at exactly this IoU survive.
        keep: most rows an image keeps, over all classes.
        per_class: a bound the caller knows on the candidates of any one class, which lets a GPU kernel take the work;
            -1 for none.

    Returns:
        rows [N, 6] (class, score, x1, y1, x2, y2) image by image, not sorted within an image, and their number per
        image [B] int32. N may be 0.
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
        # What the GPU kernel asks for: keep <= per_class <= M. Elsewhere -1, with which it computes on the CPU.
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
    rows, _, number = _C_ops.multiclass_nms3(
        boxes, scores, rois_num, score_threshold, per_class, keep, iou_threshold, True, 1.0, -1
    )
    return rows, number


def _nms_without_limit(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, keep: int
) -> tuple[Tensor, Tensor]:
    """The same through the operator's plainest use, with the best of each image chosen behind it."""
    if len(boxes.shape) == 3:
        rows, number = multiclass_nms(boxes, scores, score_threshold, iou_threshold, -1)
    else:  # each class of each image as an image with one class
        classes = scores.shape[1]
        boxes, scores = boxes.transpose([0, 2, 1, 3]).flatten(0, 1), scores.flatten(0, 1).unsqueeze(1)
        rows, number = multiclass_nms(boxes, scores, score_threshold, iou_threshold, -1)
        label = image_of_rows(rows, number)[0] % classes
        rows = paddle.concat([label.astype("float32").unsqueeze(1), rows[:, 1:]], axis=1)
        number = number.reshape([-1, classes]).sum(axis=1).astype("int32")
    image, place = image_of_rows(rows, number)
    # Exact two-level order, see BBoxPostProcess; places are the same before and behind the sorting.
    order = paddle.argsort(image.astype("float64") * 2.0 - rows[:, 1].astype("float64"))
    kept = paddle.gather(order, paddle.nonzero(place < keep).flatten())
    return paddle.gather(rows, kept), number.clip(max=keep)


def image_of_rows(rows: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Which image each row of a ragged batch belongs to, and its place there.

    Args:
        rows: [N, ...] rows, image by image.
        number: [B] rows per image.

    Returns:
        image index [N] int64 and position within the image [N] int64.
    """
    number = number.astype("int64")
    ends = paddle.cumsum(number)
    place = positions(rows[:, 0])
    image = (place.unsqueeze(1) >= ends.unsqueeze(0)).astype("int64").sum(axis=1)
    # `rows` may have more rows than `number` counts (a dummy at the end): those stay with the last image.
    image = paddle.minimum(image, positions(number).max())
    return image, place - paddle.gather(ends - number, image)


def rows_to_slots(rows: Tensor, number: Tensor, slots: int | Tensor) -> tuple[Tensor, Tensor]:
    """Lay a ragged batch out in a fixed number of slots per image.

    Args:
        rows: [N, D], image by image.
        number: [B] rows per image, none above ``slots``.
        slots: slots per image, S.

    Returns:
        [B, S, D] with zeros where nothing is, and [B, S] bool that tells where something is.
    """
    batch, width = number.shape[0], rows.shape[1]
    # One spare row keeps the operators away from empty tensors, which Paddle 2.6 refuses; it lands in a spare slot.
    rows = paddle.concat([rows, paddle.zeros([1, width], dtype=rows.dtype)])
    image, place = image_of_rows(rows, number)
    target = image * slots + place
    last = paddle.ones_like(target[-1:]) * (batch * slots)
    target = paddle.concat([target[:-1], last])
    flat = paddle.zeros([batch * slots + 1, width], dtype=rows.dtype)
    flat = paddle.scatter(flat, target, rows)[:-1].reshape([batch, -1, width])
    valid = positions(flat[0, :, 0]).unsqueeze(0) < number.astype("int64").unsqueeze(1)
    return flat, valid
