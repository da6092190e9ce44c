"""Resizing of feature maps.

In a static graph Paddle 3.3's own operators cannot run under oneDNN, which does not know what to do with their list of
scales; there they are expressed in others.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from ppdet.structures.shapes import positions

__all__ = ["resize_bilinear", "resize_nearest_like"]


def resize_nearest_like(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbour, source index floor(i * size / new size).

    Args:
        x: [B, C, h, w].
        like: [B, C', H, W], looked at for its size only.

    Returns:
        [B, C, H, W].
    """
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=like.shape[2:], mode="nearest")
    rows = positions(like[0, 0, :, 0]) * x.shape[2] // like.shape[2]
    columns = positions(like[0, 0, 0, :]) * x.shape[3] // like.shape[3]
    # Columns first: choosing them costs by the element, choosing rows copies them whole.
    return paddle.index_select(paddle.index_select(x, columns, axis=3), rows, axis=2)


def resize_bilinear(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear with corners aligned: the first and the last sample of both grids coincide.

    Args:
        x: [B, C, h, w].
        like: [B, C', H, W], looked at for its size only.

    Returns:
        [B, C, H, W].
    """
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
    down = _weights(positions(like[0, 0, :, 0]), positions(x[0, 0, :, 0]))
    across = _weights(positions(like[0, 0, 0, :]), positions(x[0, 0, 0, :]))
    # oneDNN multiplies what a convolution left in its own layout as if it were plain, unless it is reshaped before.
    planes = paddle.matmul(_with_spare(x.flatten(0, 1), 2), _with_spare(across, 1), transpose_y=True)
    planes = paddle.matmul(_with_spare(down, 1), _with_spare(planes, 1))
    return planes.reshape([-1, x.shape[1], like.shape[2], like.shape[3]])


def _weights(targets: Tensor, sources: Tensor) -> Tensor:
    """Weight of every source sample in every target sample, [targets, sources] float32, for their indices."""
    targets, sources = targets.astype("float32"), sources.astype("float32")
    step = sources.max() / targets.max().clip(min=1.0)
    return F.relu(1.0 - paddle.abs(targets.unsqueeze(1) * step - sources.unsqueeze(0)))


def _with_spare(x: Tensor, axis: int) -> Tensor:
    """``x`` with zeros appended along the axis (1, or 2 of three) that a product sums over.

    With both factors prepared so, the product is the same and never sums over a single element: there oneDNN (in Paddle
    3.3) reads memory that belongs to something else and returns arbitrary numbers.
    """
    first = x[:, :1] if axis == 1 else x[:, :, :1]
    return paddle.concat([x, paddle.zeros_like(first)], axis=axis)
