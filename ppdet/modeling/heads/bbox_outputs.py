"""What box branches share: how they are built, their losses and how their outputs are decoded.

Symbols: B images, S slots for sampled RoIs per image, N boxes per image, R RoIs of the whole batch (B * S or B * N),
K object classes. Class K is the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from ppdet.core.workspace import create
from ppdet.modeling.losses.divisor import divisor_of
from ppdet.modeling.losses.functional import cross_entropy, smooth_l1
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import SampledRoIs

__all__ = ["bbox_losses", "build_box_parts", "decode_all_classes", "deltas_of_label", "output_layer"]


def build_box_parts(cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None) -> dict[str, Any]:
    """Build ``roi_extractor`` and ``head`` of a box branch for given feature maps.

    Args:
        cfg: the section of a box head.
        input_shape: channels and stride of each feature map; None if they are not known.
    """
    if input_shape is None:
        return {}
    extractor = create(cfg["roi_extractor"], input_shape=input_shape)
    head = create(cfg["head"], implied={"in_channel": input_shape[0].channels, "resolution": extractor.resolution})
    return {"roi_extractor": extractor, "head": head}


def output_layer(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Return the last layer of a box branch, with weights from N(0, std)."""
    return nn.Linear(inputs, outputs, weight_attr=ParamAttr(initializer=Normal(std=std)))


def deltas_of_label(deltas: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Select the four deltas of each RoI's label.

    Args:
        deltas: [R, 4] if class-agnostic, otherwise [R, 4 K].
        labels: [R] int64; background RoIs (label K) get the deltas of the last class.
        num_classes: K.

    Returns:
        [R, 4] float32.
    """
    deltas = as_float32(deltas)
    if deltas.shape[1] == 4:
        return deltas
    index = labels.clip(max=num_classes - 1).reshape([-1, 1, 1]).expand([-1, 1, 4])
    return paddle.take_along_axis(deltas.reshape([-1, num_classes, 4]), index, axis=1).squeeze(1)


def decode_all_classes(
    boxes: Tensor, deltas: Tensor, stds: tuple[float, ...], num_classes: int, im_shape: Tensor
) -> Tensor:
    """Apply the deltas of every class and clip the boxes to their images.

    Args:
        boxes: [B, N, 4] xyxy in pixels of the network input.
        deltas: [R, 4] if class-agnostic, otherwise [R, 4 K].
        stds: divisors of the regression targets.
        num_classes: K.
        im_shape: [B, 2] (h, w) of the unpadded images.

    Returns:
        [B, N, 4], or [B, N, K, 4] if the deltas depend on the class.
    """
    shape = [boxes.shape[0], -1]
    if deltas.shape[1] > 4:
        deltas = deltas.reshape([*shape, num_classes, 4])
        boxes = boxes.unsqueeze(2)
    else:
        deltas = deltas.reshape([*shape, 4])
    return clip_boxes(decode_boxes(boxes, deltas, stds), im_shape)


def bbox_losses(
    logits: Tensor,
    deltas: Tensor,
    rois: SampledRoIs,
    targets: Targets,
    stds: tuple[float, ...],
    num_classes: int,
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute classification and regression loss of one stage, both divided by the number of sampled RoIs.

    Args:
        logits: [B * S, K + 1].
        deltas: [B * S, 4] or [B * S, 4 K].
        rois: the sampled RoIs, S slots per image.
        targets: ground truth.
        stds: divisors of the regression targets.
        num_classes: K.
        beta: where smooth L1 turns from quadratic to linear; 0 for L1.

    Returns:
        Two 0-D tensors: cross-entropy over all sampled RoIs, smooth L1 over the positives.
    """
    valid = rois.valid.flatten().astype("float32")
    divisor = divisor_of(valid.sum())
    classification = (cross_entropy(logits, rois.labels.flatten()) * valid).sum() / divisor
    index = rois.gt_index.unsqueeze(-1).expand([-1, -1, 4])
    gt_boxes = paddle.take_along_axis(as_float32(targets.boxes), index, axis=1)
    predicted = deltas_of_label(deltas, rois.labels.flatten(), num_classes)
    expected = encode_boxes(rois.boxes, gt_boxes, stds).reshape([-1, 4])
    positive = rois.positive.reshape([-1, 1]).expand_as(expected)
    # The other RoIs are compared with themselves, which gives neither loss nor gradient.
    expected = paddle.where(positive, expected, predicted.detach())
    return classification, smooth_l1(predicted, expected, beta).sum() / divisor
