"""Layers that backbones, necks and heads share."""

from __future__ import annotations

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Initializer, KaimingNormal, XavierUniform
from paddle.regularizer import L2Decay
from paddle.vision.ops import DeformConv2D

from ppdet import ext_op
from ppdet.modeling.ops.onnx_form import in_onnx_form

__all__ = ["ConvNormLayer", "ConvReLU", "conv_fan_out", "conv_xavier", "convolve", "make_norm"]


def make_norm(channels: int, norm_type: str, norm_eval: bool, frozen: bool, norm_decay: float | None) -> nn.Layer:
    """Normalisation over the channels of [B, C, h, w].

    Args:
        channels: C.
        norm_type: bn, sync_bn or gn (32 groups, fewer where C is not a multiple).
        norm_eval: batch normalisation always uses its stored statistics.
        frozen: scale and shift do not train, and batch normalisation always uses its stored statistics.
        norm_decay: weight decay of scale and shift; None for the optimizer's own.
    """
    norm_eval = norm_eval or frozen
    decay = None if norm_decay is None else L2Decay(norm_decay)
    attr = dict(regularizer=decay, trainable=not frozen)
    weight, bias = ParamAttr(**attr), ParamAttr(**attr)
    if norm_type == "gn":
        groups = 32
        while channels % groups:
            groups //= 2
        return nn.GroupNorm(groups, channels, weight_attr=weight, bias_attr=bias)
    if norm_type == "sync_bn" and not norm_eval:
        return nn.SyncBatchNorm(channels, weight_attr=weight, bias_attr=bias)
    if norm_type not in ("bn", "sync_bn"):
        raise ValueError(f"norm_type is {norm_type!r}, expected bn, sync_bn or gn")
    return nn.BatchNorm2D(channels, weight_attr=weight, bias_attr=bias, use_global_stats=True if norm_eval else None)


class ConvNormLayer(nn.Layer):
    """Convolution without bias, normalisation, optional ReLU: the unit of a residual network.

    Parameters are named ``conv.weight`` and ``norm.*``. With ``dcn`` "v1" (offsets) or "v2" (offsets and modulation;
    Deformable ConvNets 1703.06211, 1811.11168) there is ``conv_offset.*`` beside them, which starts at zero so that
    training starts from a plain convolution.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        act: bool = False,
        norm_type: str = "bn",
        norm_eval: bool = True,
        freeze_norm: bool = False,
        norm_decay: float | None = None,
        dcn: str | None = None,
    ) -> None:
        super().__init__()
        self.act, self.dcn, self.points = act, dcn, kernel * kernel
        padding = (kernel - 1) // 2
        if dcn is not None:
            self.conv_offset = nn.Conv2D(
                channels_in,
                self.points * {"v1": 2, "v2": 3}[dcn],
                kernel,
                stride,
                padding,
                weight_attr=ParamAttr(initializer=Constant(0.0)),
                bias_attr=ParamAttr(initializer=Constant(0.0)),
            )
        self.conv = (nn.Conv2D if dcn is None else DeformConv2D)(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            weight_attr=ParamAttr(initializer=conv_fan_out(channels_out, kernel, groups)),
            bias_attr=False,
        )
        self.norm = make_norm(channels_out, norm_type, norm_eval, freeze_norm, norm_decay)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels_in, h, w] -> [B, channels_out, h / stride, w / stride]."""
        if self.dcn is None and isinstance(self.norm, nn.Identity):  # folded
            return convolve(self.conv, x, self.act)
        x = self.norm(convolve(self.conv, x) if self.dcn is None else self._deformed(x))
        return nn.functional.relu(x) if self.act else x

    def _deformed(self, x: Tensor) -> Tensor:
        predicted = self.conv_offset(x)
        if self.dcn == "v1":
            # The converter to ONNX takes the modulated form only.
            mask = paddle.ones_like(predicted[:, : self.points]) if in_onnx_form() else None
            return self.conv(x, predicted, mask)
        offset, mask = paddle.split(predicted, [2 * self.points, self.points], axis=1)
        return self.conv(x, offset, nn.functional.sigmoid(mask))


class ConvReLU(nn.Layer):
    """Convolution with bias, then ReLU; parameters ``conv.*``."""

    def __init__(self, channels_in: int, channels: int, kernel: int) -> None:
        super().__init__()
        attr = ParamAttr(initializer=conv_fan_out(channels, kernel))
        self.conv = nn.Conv2D(channels_in, channels, kernel, padding=kernel // 2, weight_attr=attr)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels_in, h, w] -> [B, channels, h, w]."""
        return convolve(self.conv, x, relu=True)


def convolve(layer: nn.Conv2D, x: Tensor, relu: bool = False) -> Tensor:
    """Apply a convolution and, if wanted, ReLU; in predictions by the C++ extension where that is in use and can do it.

    Args:
        layer: the convolution.
        x: [B, C, h, w].
        relu: take max(0, .) of the result.
    """
    if ext_op.in_use() and not paddle.is_grad_enabled() and ext_op.can_convolve(layer):
        bias = layer.bias if layer.bias is not None else paddle.zeros([layer.weight.shape[0]], dtype="float32")
        return ext_op.conv3x3(x, layer.weight, bias, relu)
    x = layer(x)
    return nn.functional.relu(x) if relu else x


def conv_fan_out(channels_out: int, kernel: int, groups: int = 1) -> Initializer:
    """Kaiming normal initialisation in fan-out mode for a ReLU: N(0, sqrt(2 / (channels_out * kernel^2 / groups)))."""
    return KaimingNormal(fan_in=channels_out * kernel * kernel / groups)


def conv_xavier(channels_in: int, channels_out: int, kernel: int) -> Initializer:
    """Xavier uniform initialisation of a convolution."""
    return XavierUniform(fan_in=channels_in * kernel * kernel, fan_out=channels_out * kernel * kernel)
