"""Box branch: two fully connected layers, class logits and box deltas, one set per cascade stage."""

from __future__ import annotations

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F
from paddle.nn.initializer import Normal, XavierUniform

from ppdet.core.config.ranges import Bins, Channels, StageCount
from ppdet.core.workspace import register
from ppdet.modeling.losses.divisor import divisor_of
from ppdet.modeling.losses.functional import cross_entropy, smooth_l1
from ppdet.modeling.ops.boxes import encode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import SampledRoIs

__all__ = ["CascadeTwoFCHead", "HybridTaskCascadeTwoFCHead", "TwoFCHead", "bbox_losses"]


@register
class TwoFCHead(nn.Layer):
    """Two fully connected layers with ReLU.

    Args:
        in_channel: channels of the RoI feature.
        out_channel: width of both layers.
        resolution: side of the RoI feature.
    """

    def __init__(self, in_channel: Channels = 256, out_channel: Channels = 1024, resolution: Bins = 7) -> None:
        super().__init__()
        inputs = in_channel * resolution * resolution
        self.fc6 = nn.Linear(inputs, out_channel, weight_attr=ParamAttr(initializer=XavierUniform()))
        self.out_channel = out_channel
        self.fc7 = nn.Linear(out_channel, out_channel, weight_attr=ParamAttr(initializer=XavierUniform()))

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, s, s] -> [R, out_channel]."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


@register
class HybridTaskCascadeTwoFCHead(nn.LayerList):
    """A :class:`TwoFCHead` for each stage.

    Args:
        in_channel: channels of the RoI feature.
        out_channel: width of the layers.
        resolution: side of the RoI feature.
        num_cascade_stages: T.
    """

    __shared__ = ["num_cascade_stages"]

    def __init__(
        self,
        in_channel: Channels = 256,
        out_channel: Channels = 1024,
        resolution: Bins = 7,
        num_cascade_stages: StageCount = 3,
    ) -> None:
        super().__init__([TwoFCHead(in_channel, out_channel, resolution) for _ in range(num_cascade_stages)])
        self.out_channel = out_channel


@register
class CascadeTwoFCHead(HybridTaskCascadeTwoFCHead):
    """PaddleDetection's name for the same."""


def box_outputs(inputs: int, outputs: int, std: float) -> nn.Linear:
    """The last layer of a box branch, weights from N(0, std)."""
    return nn.Linear(inputs, outputs, weight_attr=ParamAttr(initializer=Normal(std=std)))


def deltas_of_label(deltas: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Each RoI's own four deltas.

    Args:
        deltas: [R, 4] class-agnostic, or [R, 4 K].
        labels: [R] int64; background (K) gets the last class's deltas.
        num_classes: K.

    Returns:
        [R, 4] float32.
    """
    deltas = as_float32(deltas)
    if deltas.shape[1] == 4:
        return deltas
    index = labels.clip(max=num_classes - 1).reshape([-1, 1, 1]).expand([-1, 1, 4])
    return paddle.take_along_axis(deltas.reshape([-1, num_classes, 4]), index, axis=1).squeeze(1)


def bbox_losses(
    logits: Tensor,
    deltas: Tensor,
    rois: SampledRoIs,
    targets: Targets,
    stds: tuple[float, ...],
    num_classes: int,
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Classification and regression loss of one stage, both divided by the drawn RoIs of the batch.

    Args:
        logits: [B * S, K + 1].
        deltas: [B * S, 4] or [B * S, 4 K].
        rois: the drawn RoIs, S slots.
        targets: ground truth.
        stds: divisors of the regression targets.
        num_classes: K.
        beta: of the smooth L1 loss; 0 for L1.

    Returns:
        two 0-D tensors: cross-entropy over all drawn RoIs, smooth L1 over the positives.
    """
    valid = rois.valid.flatten().astype("float32")
    divisor = divisor_of(valid.sum())
    classification = (cross_entropy(logits, rois.labels.flatten()) * valid).sum() / divisor
    index = rois.gt_index.unsqueeze(-1).expand([-1, -1, 4])
    objects = paddle.take_along_axis(as_float32(targets.boxes), index, axis=1)
    own = deltas_of_label(deltas, rois.labels.flatten(), num_classes)
    wanted = encode_boxes(rois.boxes, objects, stds).reshape([-1, 4])
    positive = rois.positive.reshape([-1, 1]).expand_as(wanted)
    wanted = paddle.where(positive, wanted, own.detach())  # no distance, no gradient
    return classification, smooth_l1(own, wanted, beta).sum() / divisor
