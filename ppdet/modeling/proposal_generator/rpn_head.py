"""Region proposal network (Faster R-CNN, 1506.01497, section 3.1).

Symbols: B images, C channels, A anchors per feature pixel, h x w the size of a feature map, N proposals per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from ppdet.core.config.ranges import Channels, NonNegative, OneOf
from ppdet.core.workspace import register
from ppdet.modeling.assigners.rpn_assigner import RPNTargetAssign
from ppdet.modeling.layers import convolve
from ppdet.modeling.losses.divisor import divisor_of
from ppdet.modeling.losses.functional import binary_cross_entropy, smooth_l1
from ppdet.modeling.ops.boxes import encode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals

__all__ = ["RPNFeat", "RPNHead", "RPNOutput"]

_STDS = (1.0, 1.0, 1.0, 1.0)


class RPNOutput(NamedTuple):
    """Output of the network.

    Attributes:
        logits: objectness [B, A, h, w] of each level.
        deltas: [B, 4 A, h, w] of each level.
    """

    logits: list[Tensor]
    deltas: list[Tensor]


class RPNFeat(nn.Layer):
    """The 3x3 convolution before the two outputs."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2D(
            channels_in, channels, 3, padding=1, weight_attr=ParamAttr(initializer=Normal(std=0.01))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, h, w] to [B, channels, h, w]."""
        return convolve(self.rpn_conv, x, relu=True)


@register
class RPNHead(nn.Layer):
    """Scores and refines the anchors of every level, and selects proposals.

    Args:
        anchor_generator: makes the anchors.
        rpn_target_assign: samples the anchors to train on.
        train_proposal: selects proposals in training.
        test_proposal: selects proposals in prediction.
        in_channel: channels of every level.
        smooth_l1_beta: beta of the box loss; 1/9 in HTC, 0 (L1) in Mask R-CNN and PaddleDetection.
        loss_divisor: divisor of both losses: ``drawn``, the number of sampled anchors in the batch (the authors), or
            ``quota``, the largest number that could have been sampled (PaddleDetection).
    """

    __inject__ = {
        "anchor_generator": "AnchorGenerator",
        "rpn_target_assign": "RPNTargetAssign",
        "train_proposal": "ProposalGenerator",
        "test_proposal": "ProposalGenerator",
    }

    def __init__(
        self,
        *,
        anchor_generator: AnchorGenerator,
        rpn_target_assign: RPNTargetAssign,
        train_proposal: ProposalGenerator,
        test_proposal: ProposalGenerator,
        in_channel: Channels = 256,
        smooth_l1_beta: NonNegative = 1.0 / 9.0,
        loss_divisor: Annotated[str, OneOf("drawn", "quota")] = "drawn",
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.rpn_target_assign = rpn_target_assign
        self.train_proposal = train_proposal
        self.test_proposal = test_proposal
        self.smooth_l1_beta = smooth_l1_beta
        self.loss_divisor = loss_divisor
        anchors = anchor_generator.num_anchors
        self.rpn_feat = RPNFeat(in_channel, in_channel)
        normal = ParamAttr(initializer=Normal(std=0.01))
        self.rpn_rois_score = nn.Conv2D(in_channel, anchors, 1, weight_attr=normal)
        self.rpn_rois_delta = nn.Conv2D(in_channel, 4 * anchors, 1, weight_attr=ParamAttr(initializer=Normal(std=0.01)))

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Derive the channels from the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
        """
        return {} if input_shape is None else {"in_channel": input_shape[0].channels}

    def forward(self, features: Sequence[Tensor]) -> RPNOutput:
        """Map the feature maps [B, C, h, w] of all levels to logits and deltas."""
        shared = [self.rpn_feat(x) for x in features]
        return RPNOutput([self.rpn_rois_score(x) for x in shared], [self.rpn_rois_delta(x) for x in shared])

    def propose(self, features: Sequence[Tensor], output: RPNOutput, im_shape: Tensor) -> tuple[Proposals, Tensor]:
        """Select proposals for training or prediction, as the mode of the layer is.

        Args:
            features: maps [B, C, h, w] of all levels.
            output: logits and deltas for them.
            im_shape: [B, 2] (h, w) of the unpadded images.

        Returns:
            N proposals per image, detached and sorted by score, and their scores [B, N].
        """
        generator = self.train_proposal if self.training else self.test_proposal
        return generator(
            self.anchor_generator(features),
            [_by_anchor(x, 1).squeeze(-1).detach() for x in output.logits],
            [_by_anchor(x, 4).detach() for x in output.deltas],
            im_shape,
            fixed_slots=self.training,
        )

    def loss(
        self, features: Sequence[Tensor], output: RPNOutput, im_shape: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Compute ``loss_rpn_cls`` and ``loss_rpn_reg``.

        With ``loss_divisor: drawn`` both are divided by the sum over the images of max(positives, 1) +
        max(negatives, 1), as in the authors' code.

        Args:
            features: maps [B, C, h, w] of all levels.
            output: logits and deltas for them.
            im_shape: [B, 2] (h, w) of the unpadded images.
            targets: ground truth.
        """
        anchors = paddle.concat(self.anchor_generator(features))
        sampled = self.rpn_target_assign(anchors, im_shape, targets)
        positives, negatives = sampled.positives.astype("float32"), sampled.negatives.astype("float32")
        count = (positives.sum(axis=1).clip(min=1.0) + negatives.sum(axis=1).clip(min=1.0)).sum()
        if self.loss_divisor == "quota":
            count = paddle.ones_like(positives[:, 0]).sum() * float(self.rpn_target_assign.batch_size_per_im)
        divisor = divisor_of(count)
        logits = paddle.concat([_by_anchor(x, 1) for x in output.logits], axis=1).squeeze(-1)
        deltas = paddle.concat([_by_anchor(x, 4) for x in output.deltas], axis=1)
        expected = encode_boxes(anchors.unsqueeze(0), sampled.boxes, _STDS)
        mask = sampled.positives.unsqueeze(-1).expand_as(expected)
        # The other anchors are compared with themselves, which gives neither loss nor gradient.
        expected = paddle.where(mask, expected, deltas.detach())
        classification = binary_cross_entropy(logits, positives) * (positives + negatives)
        distance = smooth_l1(deltas, expected, self.smooth_l1_beta)
        return {
            "loss_rpn_cls": classification.sum() / divisor,
            "loss_rpn_reg": distance.sum() / divisor,
        }


def _by_anchor(x: Tensor, width: int) -> Tensor:
    """Map [B, A * width, h, w] to [B, h * w * A, width] float32, the order of the anchors."""
    x = as_float32(x)
    return x.transpose([0, 2, 3, 1]).reshape([x.shape[0], -1, width])
