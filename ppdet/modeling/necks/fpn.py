"""Feature pyramid network (1612.03144).

Symbols: B images, c_i channels and h_i x w_i the size of map i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, Interval, Length, PositiveInt
from ppdet.core.workspace import register, serializable
from ppdet.modeling.layers import conv_xavier, convolve
from ppdet.modeling.ops.resize import resize_nearest_like
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["FPN"]


@register
@serializable
class FPN(nn.Layer):
    """Top-down pathway with lateral connections.

    Args:
        in_channels: channels of each incoming map, finest first.
        out_channel: channels of every outgoing map.
        strides: input pixels per pixel of each incoming map.
        extra_stage: number of levels on top of the pyramid, each subsampled by 2 from the level below (0 to 3).
        first_stage: backbone stage of the finest map, part of the parameter names.
    """

    def __init__(
        self,
        in_channels: Annotated[Sequence[PositiveInt], Length(1, 8)],
        out_channel: Channels = 256,
        strides: Annotated[Sequence[PositiveInt], Length(1, 8)] = (4, 8, 16, 32),
        extra_stage: Annotated[int, Interval(0, 3)] = 1,
        first_stage: Annotated[int, Interval(0, 99)] = 2,
    ) -> None:
        super().__init__()
        self.out_channel = out_channel
        self.strides = tuple(strides)
        self.extra_stage = extra_stage
        self.lateral: list[nn.Layer] = []
        self.output: list[nn.Layer] = []
        top = len(in_channels) - 1
        for i, channels in enumerate(in_channels):
            stage = f"res{i + first_stage}_sum"
            lateral = nn.Conv2D(
                channels, out_channel, 1, weight_attr=ParamAttr(initializer=conv_xavier(channels, out_channel, 1))
            )
            self.lateral.append(self.add_sublayer(f"fpn_inner_{stage}" + ("" if i == top else "_lateral"), lateral))
            output = nn.Conv2D(
                out_channel,
                out_channel,
                3,
                padding=1,
                weight_attr=ParamAttr(initializer=conv_xavier(out_channel, out_channel, 3)),
            )
            self.output.append(self.add_sublayer(f"fpn_{stage}", output))

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Derive channels and strides from the maps of the backbone.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each incoming map.
        """
        if input_shape is None:
            return {}
        return {"in_channels": [s.channels for s in input_shape], "strides": [s.stride for s in input_shape]}

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each outgoing map."""
        strides = list(self.strides)
        for _ in range(self.extra_stage):
            strides.append(strides[-1] * 2)
        return [ShapeSpec(self.out_channel, stride) for stride in strides]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map C2..C5 [B, c_i, h_i, w_i] to P2..P6 [B, out_channel, h_i, w_i]; P6 has half the size of P5."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, features)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + resize_nearest_like(merged[i], merged[i - 1])
        outputs = [convolve(output, x) for output, x in zip(self.output, merged)]
        for _ in range(self.extra_stage):
            outputs.append(F.max_pool2d(outputs[-1], 1, 2))
        return outputs
