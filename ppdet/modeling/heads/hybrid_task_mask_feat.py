"""Mask network of one stage of HTC (1901.07518, section 3.2).

Symbols: R RoIs, K object classes, C channels, s side of a RoI feature.
"""

from __future__ import annotations

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, Convolutions, PositiveInt
from ppdet.core.workspace import register
from ppdet.modeling.heads.mask_outputs import logits_of_label
from ppdet.modeling.layers import ConvReLU, conv_fan_out

__all__ = ["HybridTaskMaskFeat"]


@register
class HybridTaskMaskFeat(nn.Layer):
    """Mask network of one stage: convolutions, upsampling, one logit map per class.

    Args:
        in_channel: channels of the RoI features.
        out_channel: channels of the convolutions.
        num_convs: number of 3x3 convolutions; without any the RoI features are upsampled directly.
        num_maps: number of logit maps: K, or 1 for class-agnostic masks.
        with_conv_res: build the 1x1 convolution for the feature of the previous stage. The first stage has none,
            and without information flow no stage has.
    """

    def __init__(
        self,
        in_channel: Channels = 256,
        out_channel: Channels = 256,
        num_convs: Convolutions = 4,
        num_maps: PositiveInt = 80,
        with_conv_res: bool = False,
    ) -> None:
        super().__init__()
        channels = out_channel if num_convs else in_channel
        self.conv_res = ConvReLU(channels, in_channel, 1) if with_conv_res else None
        widths = [in_channel] + [out_channel] * num_convs
        self.convs = nn.LayerList([ConvReLU(widths[i], widths[i + 1], 3) for i in range(num_convs)])
        attr = ParamAttr(initializer=conv_fan_out(out_channel, 2))
        self.upsample = nn.Conv2DTranspose(channels, out_channel, 2, stride=2, weight_attr=attr)
        attr = ParamAttr(initializer=conv_fan_out(num_maps, 1))
        self.conv_logits = nn.Conv2D(out_channel, num_maps, 1, weight_attr=attr)

    def features(self, x: Tensor, previous: Tensor | None) -> Tensor:
        """Compute the feature of this stage.

        Args:
            x: RoI features [R, C, s, s].
            previous: feature [R, C', s, s] of the previous stage, or None.

        Returns:
            [R, C', s, s].
        """
        if previous is not None and self.conv_res is not None:
            x = x + self.conv_res(previous)
        for conv in self.convs:
            x = conv(x)
        return x

    def logits(self, feature: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute mask logits.

        Args:
            feature: [R, C', s, s] from :meth:`features`.
            labels: [R] int64; if given, only the map of each RoI's label is computed.

        Returns:
            [R, num_maps, 2 s, 2 s], or [R, 2 s, 2 s] with ``labels``.
        """
        x = F.relu(self.upsample(feature))
        if labels is None:
            return self.conv_logits(x)
        return logits_of_label(x, self.conv_logits, labels)
