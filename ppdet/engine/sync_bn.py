"""Synchronised batch normalisation on devices that do not have it."""

from __future__ import annotations

from paddle.nn import BatchNorm2D, Layer, SyncBatchNorm

__all__ = ["replace_sync_bn"]


def replace_sync_bn(layer: Layer) -> int:
    """Replace every SyncBatchNorm below a layer by BatchNorm2D with the same tensors; return how many there were."""
    count = 0
    for name, child in list(layer.named_children()):
        if isinstance(child, SyncBatchNorm):
            plain = BatchNorm2D(child._num_features, momentum=child._momentum, epsilon=child._epsilon)
            plain.weight, plain.bias = child.weight, child.bias
            plain._mean.set_value(child._mean)
            plain._variance.set_value(child._variance)
            setattr(layer, name, plain)
            count += 1
        else:
            count += replace_sync_bn(child)
    return count
