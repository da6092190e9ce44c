"""Layers that backbones, necks and heads share.

Symbols: B images, C channels, h x w the size of a feature map.
"""

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
    """Return a normalisation layer for feature maps [B, C, h, w].

    Args:
        channels: C.
        norm_type: bn, sync_bn or gn (32 groups, or fewer if C is not a multiple of 32).
        norm_eval: use the stored statistics of batch normalisation in training, too.
        frozen: do not train scale and shift; implies ``norm_eval``.
        norm_decay: weight decay of scale and shift; None for that of the optimizer.

    Raises:
        ValueError: ``norm_type`` is not known.
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
    """Convolution without bias, normalisation and optional ReLU.

    Parameters are named ``conv.weight`` and ``norm.*``; deformable convolutions also have ``conv_offset.*``, which is
    initialised with zeros so that training starts from a plain convolution.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: side of the kernel.
        stride: of the convolution.
        groups: of the convolution.
        act: apply ReLU.
        norm_type: see :func:`make_norm`.
        norm_eval: see :func:`make_norm`.
        freeze_norm: ``frozen`` of :func:`make_norm`.
        norm_decay: see :func:`make_norm`.
        dcn: ``v1`` for a deformable convolution (1703.06211), ``v2`` for a modulated one (1811.11168), None for a
            plain one.
    """

    def __init__(
        self,
        *,
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
        """Map [B, channels_in, h, w] to [B, channels_out, h / stride, w / stride]."""
        if self.dcn is None and isinstance(self.norm, nn.Identity):  # folded
            return convolve(self.conv, x, self.act)
        x = self.norm(convolve(self.conv, x) if self.dcn is None else self._deformed(x))
        return nn.functional.relu(x) if self.act else x

    def _deformed(self, x: Tensor) -> Tensor:
        predicted = self.conv_offset(x)
        if self.dcn == "v1":
            # The converter to ONNX supports the modulated form only.
            mask = paddle.ones_like(predicted[:, : self.points]) if in_onnx_form() else None
            return self.conv(x, predicted, mask)
        offset, mask = paddle.split(predicted, [2 * self.points, self.points], axis=1)
        return self.conv(x, offset, nn.functional.sigmoid(mask))


class ConvReLU(nn.Layer):
    """Convolution with bias and ReLU; its parameters are named ``conv.*``."""

    def __init__(self, channels_in: int, channels: int, kernel: int) -> None:
        super().__init__()
        attr = ParamAttr(initializer=conv_fan_out(channels, kernel))
        self.conv = nn.Conv2D(channels_in, channels, kernel, padding=kernel // 2, weight_attr=attr)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels_in, h, w] to [B, channels, h, w]."""
        return convolve(self.conv, x, relu=True)


def convolve(layer: nn.Conv2D, x: Tensor, relu: bool = False) -> Tensor:
    """Apply a convolution and optionally ReLU, without gradients by the C++ extension if it is in use and supports it.

    Args:
        layer: the convolution.
        x: [B, C, h, w].
        relu: apply ReLU to the result.
    """
    if ext_op.in_use() and not paddle.is_grad_enabled() and ext_op.can_convolve(layer):
        bias = layer.bias if layer.bias is not None else paddle.zeros([layer.weight.shape[0]], dtype="float32")
        return ext_op.conv3x3(x, layer.weight, bias, relu)
    x = layer(x)
    return nn.functional.relu(x) if relu else x


def conv_fan_out(channels_out: int, kernel: int, groups: int = 1) -> Initializer:
    """Return Kaiming normal initialisation by the fan-out: N(0, sqrt(2 / (channels_out * kernel^2 / groups)))."""
    return KaimingNormal(fan_in=channels_out * kernel * kernel / groups)


def conv_xavier(channels_in: int, channels_out: int, kernel: int) -> Initializer:
    """Return Xavier uniform initialisation for a convolution."""
    return XavierUniform(fan_in=channels_in * kernel * kernel, fan_out=channels_out * kernel * kernel)
