"""Folding of batch normalisation into the convolution before it."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from ppdet.modeling.layers import ConvNormLayer

__all__ = ["fold_batch_norms"]


def fold_batch_norms(model: nn.Layer) -> int:
    """Fold the batch normalisation of every ``ConvNormLayer`` into its convolution (plain or deformable), in place.

    With stored statistics batch normalisation is a scale and a shift, which the convolution takes over. In eval mode
    the model computes the same up to float32 rounding; it cannot be trained any more.

    Returns:
        Number of layers folded. Other normalisations (GroupNorm) remain.
    """
    count = 0
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, ConvNormLayer) and isinstance(layer.norm, (nn.BatchNorm2D, nn.SyncBatchNorm)):
            _fold(layer, layer.norm)
            count += 1
    return count


def _fold(layer: ConvNormLayer, norm: nn.Layer) -> None:
    parts = (norm.weight, norm.bias, norm._mean, norm._variance)
    scale, shift, mean, variance = (part.astype("float32").numpy().astype(np.float64) for part in parts)
    factor = scale / np.sqrt(variance + norm._epsilon)
    weight = layer.conv.weight
    folded = weight.astype("float32").numpy().astype(np.float64) * factor.reshape(-1, 1, 1, 1)
    weight.set_value(paddle.to_tensor(folded.astype(np.float32)).astype(weight.dtype))
    bias = layer.conv.create_parameter([len(shift)], dtype=weight.dtype, is_bias=True)
    bias.set_value(paddle.to_tensor((shift - mean * factor).astype(np.float32)).astype(weight.dtype))
    layer.conv.bias = bias
    layer.norm = nn.Identity()
