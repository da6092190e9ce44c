"""Semantic segmentation branch S(x) of HTC (1901.07518, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, Convolutions, Interval, NonNegative, PositiveInt, SemanticClassCount
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.layers import ConvReLU, conv_fan_out
from ppdet.modeling.losses.functional import semantic_cross_entropy
from ppdet.modeling.ops.resize import resize_bilinear
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["FusedSemanticHead", "SemanticOutput"]


class SemanticOutput(NamedTuple):
    """Output of the branch.

    Attributes:
        logits: [B, semantic classes, H / stride, W / stride].
        feature: [B, C, H / stride, W / stride], fused into the RoI features.
    """

    logits: Tensor
    feature: Tensor


def _check_level(level: int, count: int) -> None:
    if level >= count:
        raise ParameterError(
            "{0} is {level}, but the pyramid has {count} levels: the last one is {last}",
            "fusion_level",
            level=level,
            count=count,
            last=count - 1,
        )


@register
class FusedSemanticHead(nn.Layer):
    """All pyramid levels, brought to one size and summed, through four convolutions to a semantic map and a feature.

    Args:
        semantic_num_classes: channels of the map (183 for COCO-Stuff's label maps).
        in_channel: channels of every pyramid level.
        conv_out_channels: channels of every convolution here and of the feature.
        num_ins: pyramid levels used.
        fusion_level: the level whose size the others take; 1 is stride 8.
        num_convs: 3x3 convolutions.
        fusion_stride: input pixels per pixel of that level.
        loss_weight: weight of the loss.
        ignore_label: label without loss.
        loss_over_all_pixels: see :func:`~ppdet.modeling.losses.functional.semantic_cross_entropy`.
    """

    __shared__ = ["semantic_num_classes"]

    def __init__(
        self,
        semantic_num_classes: SemanticClassCount = 183,
        in_channel: Channels = 256,
        conv_out_channels: Channels = 256,
        num_ins: Annotated[int, Interval(1, 16)] = 5,
        fusion_level: Annotated[int, Interval(0, 15)] = 1,
        num_convs: Convolutions = 4,
        fusion_stride: PositiveInt = 8,
        loss_weight: NonNegative = 0.2,
        ignore_label: Annotated[int, Interval(0, 255)] = 255,
        loss_over_all_pixels: bool = False,
    ) -> None:
        super().__init__()
        _check_level(fusion_level, num_ins)
        self.semantic_num_classes = semantic_num_classes
        self.fusion_level = fusion_level
        self.fusion_stride = fusion_stride
        self.loss_weight = loss_weight
        self.ignore_label = ignore_label
        self.loss_over_all_pixels = loss_over_all_pixels
        self.out_channels = conv_out_channels
        width = conv_out_channels
        self.lateral_convs = nn.LayerList([ConvReLU(in_channel, in_channel, 1) for _ in range(num_ins)])
        self.convs = nn.LayerList([ConvReLU(in_channel if i == 0 else width, width, 3) for i in range(num_convs)])
        channels = width if num_convs else in_channel
        attr = ParamAttr(initializer=conv_fan_out(width, 1))
        self.conv_embedding = nn.Conv2D(channels, width, 1, weight_attr=attr)
        attr = ParamAttr(initializer=conv_fan_out(semantic_num_classes, 1))
        self.conv_logits = nn.Conv2D(channels, semantic_num_classes, 1, weight_attr=attr)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Take channels and the fusion level's stride from the neck's ``out_shape``."""
        if input_shape is None:
            return {}
        level = cfg.get("fusion_level", 1)
        _check_level(level, len(input_shape))
        return {
            "in_channel": input_shape[0].channels,
            "num_ins": len(input_shape),
            "fusion_stride": input_shape[level].stride,
        }

    def forward(self, features: Sequence[Tensor]) -> SemanticOutput:
        """P2..P6, each [B, C, h_i, w_i] -> logits and feature at the size of the fusion level."""
        x = None
        for i, (lateral, feature) in enumerate(zip(self.lateral_convs, features)):
            if i != self.fusion_level:
                feature = resize_bilinear(feature, features[self.fusion_level])
            part = lateral(feature)
            x = part if x is None else x + part
        for conv in self.convs:
            x = conv(x)
        return SemanticOutput(self.conv_logits(x), F.relu(self.conv_embedding(x)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross-entropy of logits [B, C, h, w] against labels [B, H, W] subsampled to their size."""
        return self.loss_weight * semantic_cross_entropy(
            logits, labels, self.fusion_stride, self.ignore_label, self.loss_over_all_pixels
        )
