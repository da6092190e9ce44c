"""Region proposal network (Faster R-CNN, section 3.1)."""

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
    """What the network says about each level's anchors.

    Attributes:
        logits: per level [B, A, h, w].
        deltas: per level [B, 4 A, h, w].
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
        """[B, c, h, w] -> [B, channels, h, w]."""
        return convolve(self.rpn_conv, x, relu=True)


@register
class RPNHead(nn.Layer):
    """Objectness and box deltas for the anchors of every level, their losses, and the proposals.

    Args:
        anchor_generator: makes the anchors.
        rpn_target_assign: draws the anchors to train on.
        train_proposal: makes the proposals of training.
        test_proposal: makes the proposals of prediction.
        in_channel: channels of every level.
        smooth_l1_beta: of the box loss; 1/9 in HTC, 0 (L1) in Mask R-CNN and PaddleDetection.
        loss_divisor: what both losses are divided by: ``drawn``, the anchors drawn in the batch (the authors), or
            ``quota``, those that would have been drawn at most (PaddleDetection).
    """

    __inject__ = {
        "anchor_generator": "AnchorGenerator",
        "rpn_target_assign": "RPNTargetAssign",
        "train_proposal": "ProposalGenerator",
        "test_proposal": "ProposalGenerator",
    }

    def __init__(
        self,
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
        """Take the channels from the neck's ``out_shape``."""
        return {} if input_shape is None else {"in_channel": input_shape[0].channels}

    def forward(self, features: Sequence[Tensor]) -> RPNOutput:
        """Features per level [B, C, h, w] -> logits and deltas."""
        shared = [self.rpn_feat(x) for x in features]
        return RPNOutput([self.rpn_rois_score(x) for x in shared], [self.rpn_rois_delta(x) for x in shared])

    def propose(self, features: Sequence[Tensor], output: RPNOutput, im_shape: Tensor) -> tuple[Proposals, Tensor]:
        """Proposals of the current mode (training or prediction), detached, best first; their scores [B, K]."""
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
        """Classification and box loss, divided as ``loss_divisor`` says.

        ``drawn`` is the sum over images of max(positives, 1) + max(negatives, 1), the official rule.
        """
        anchors = paddle.concat(self.anchor_generator(features))
        drawn = self.rpn_target_assign(anchors, im_shape, targets)
        positives, negatives = drawn.positives.astype("float32"), drawn.negatives.astype("float32")
        count = (positives.sum(axis=1).clip(min=1.0) + negatives.sum(axis=1).clip(min=1.0)).sum()
        if self.loss_divisor == "quota":
            count = paddle.ones_like(positives[:, 0]).sum() * float(self.rpn_target_assign.batch_size_per_im)
        divisor = divisor_of(count)
        logits = paddle.concat([_by_anchor(x, 1) for x in output.logits], axis=1).squeeze(-1)
        deltas = paddle.concat([_by_anchor(x, 4) for x in output.deltas], axis=1)
        wanted = encode_boxes(anchors.unsqueeze(0), drawn.boxes, _STDS)
        mask = drawn.positives.unsqueeze(-1).expand_as(wanted)
        wanted = paddle.where(mask, wanted, deltas.detach())  # no distance, no gradient
        classification = binary_cross_entropy(logits, positives) * (positives + negatives)
        distance = smooth_l1(deltas, wanted, self.smooth_l1_beta)
        return {
            "loss_rpn_cls": classification.sum() / divisor,
            "loss_rpn_reg": distance.sum() / divisor,
        }


def _by_anchor(x: Tensor, width: int) -> Tensor:
    """[B, A * width, h, w] -> [B, h * w * A, width] float32, the order of the anchors."""
    x = as_float32(x)
    return x.transpose([0, 2, 3, 1]).reshape([x.shape[0], -1, width])
