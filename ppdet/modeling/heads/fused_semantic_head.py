"""Semantic segmentation branch of HTC (1901.07518, section 3.3).

Symbols: B images, C channels; H x W is the padded network input, h_i x w_i the size of pyramid level i.
"""

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
        feature: [B, C, H / stride, W / stride], to be added to RoI features.
    """

    logits: Tensor
    feature: Tensor


def _check_level(level: int, count: int) -> None:
    if level >= count:
        raise ParameterError(
            "{0} is {level}, but the pyramid has {levels}: set at most {last}",
            "fusion_level",
            level=level,
            levels="1 level" if count == 1 else f"{count} levels",
            last=count - 1,
        )


@register
class FusedSemanticHead(nn.Layer):
    """Sums all pyramid levels at the size of one of them and computes a semantic map and a feature from the sum.

    Args:
        semantic_num_classes: channels of the map (183 for the label maps of COCO-Stuff).
        in_channel: channels of every pyramid level.
        conv_out_channels: channels of the convolutions behind the sum and of the feature.
        num_ins: number of pyramid levels in use.
        fusion_level: level to whose size the others are resized; 1 has stride 8.
        num_convs: number of 3x3 convolutions.
        fusion_stride: stride of ``fusion_level``.
        loss_weight: weight of the loss.
        ignore_label: label of pixels that are left out of the loss.
        loss_over_all_pixels: see :func:`~ppdet.modeling.losses.functional.semantic_cross_entropy`.

    Raises:
        ParameterError: ``fusion_level`` lies beyond the pyramid.
    """

    __shared__ = ["semantic_num_classes"]

    def __init__(
        self,
        *,
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
        """Derive channels and strides from the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
        """
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
        """Map pyramid levels [B, C, h_i, w_i] to logits and feature at the size of the fusion level."""
        x = None
        for i, (lateral, feature) in enumerate(zip(self.lateral_convs, features)):
            if i != self.fusion_level:
                feature = resize_bilinear(feature, features[self.fusion_level])
            level = lateral(feature)
            x = level if x is None else x + level
        for conv in self.convs:
            x = conv(x)
        return SemanticOutput(self.conv_logits(x), F.relu(self.conv_embedding(x)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the weighted cross-entropy of logits [B, C, h, w] against labels [B, H, W] subsampled to h x w."""
        return self.loss_weight * semantic_cross_entropy(
            logits, labels, self.fusion_stride, self.ignore_label, self.loss_over_all_pixels
        )
