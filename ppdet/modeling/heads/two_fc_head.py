"""The fully connected layers of a box branch (Faster R-CNN with FPN, 1612.03144, section 4.2).

Symbols: R RoIs, C channels and s side of a RoI feature, T stages of a cascade.
"""

from __future__ import annotations

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F
from paddle.nn.initializer import XavierUniform

from ppdet.core.config.ranges import Bins, Channels, StageCount
from ppdet.core.workspace import register

__all__ = ["CascadeTwoFCHead", "HybridTaskCascadeTwoFCHead", "TwoFCHead"]


@register
class TwoFCHead(nn.Layer):
    """Two fully connected layers, each followed by ReLU.

    Args:
        in_channel: channels of the RoI features.
        out_channel: width of both layers.
        resolution: side of the RoI features.
    """

    out_channel: int

    def __init__(self, in_channel: Channels = 256, out_channel: Channels = 1024, resolution: Bins = 7) -> None:
        super().__init__()
        inputs = in_channel * resolution * resolution
        self.fc6 = nn.Linear(inputs, out_channel, weight_attr=ParamAttr(initializer=XavierUniform()))
        self.out_channel = out_channel
        self.fc7 = nn.Linear(out_channel, out_channel, weight_attr=ParamAttr(initializer=XavierUniform()))

    def forward(self, x: Tensor) -> Tensor:
        """Map RoI features [R, C, s, s] to [R, out_channel]."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


@register
class CascadeTwoFCHead(nn.LayerList):
    """One :class:`TwoFCHead` per stage.

    Args:
        in_channel: channels of the RoI features.
        out_channel: width of the layers.
        resolution: side of the RoI features.
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
class HybridTaskCascadeTwoFCHead(CascadeTwoFCHead):
    """The same layers under the name that configurations of HTC use."""
