"""Convolutions of a mask branch (Mask R-CNN, 1703.06870, figure 4).

Symbols: R RoIs, C channels, s side of a RoI feature.
"""

from __future__ import annotations

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, Convolutions
from ppdet.core.workspace import register
from ppdet.modeling.layers import conv_fan_out, convolve

__all__ = ["MaskFeat"]


@register
class MaskFeat(nn.Layer):
    """Convolutions, then a transposed convolution that doubles the size.

    Args:
        in_channel: channels of the RoI features.
        out_channel: channels of the convolutions.
        num_convs: number of 3x3 convolutions; without any the RoI features are upsampled directly.
    """

    def __init__(self, in_channel: Channels = 256, out_channel: Channels = 256, num_convs: Convolutions = 4) -> None:
        super().__init__()
        self.out_channel = out_channel
        self.upsample = nn.Sequential()  # PaddleDetection's name for all layers
        for index in range(num_convs):
            attr = ParamAttr(initializer=conv_fan_out(out_channel, 3))
            conv = nn.Conv2D(in_channel if index == 0 else out_channel, out_channel, 3, padding=1, weight_attr=attr)
            self.upsample.add_sublayer(f"mask_inter_feat_{index + 1}", conv)
            self.upsample.add_sublayer(f"relu_{index + 1}", nn.ReLU())
        attr = ParamAttr(initializer=conv_fan_out(out_channel, 2))
        channels = out_channel if num_convs else in_channel
        self.upsample.add_sublayer(
            "conv5_mask", nn.Conv2DTranspose(channels, out_channel, 2, stride=2, weight_attr=attr)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map RoI features [R, C, s, s] to [R, out_channel, 2 s, 2 s]."""
        for layer in self.upsample.children():
            if isinstance(layer, nn.Conv2D):
                x = convolve(layer, x, relu=True)
            elif isinstance(layer, nn.Conv2DTranspose):
                x = F.relu(layer(x))
        return x
