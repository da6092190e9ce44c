"""Resizing of feature maps.

In a static graph the resizing operators of Paddle 3.3 fail under oneDNN, which does not support their list of scales;
there other operators take their place.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from ppdet.structures.shapes import positions

__all__ = ["resize_bilinear", "resize_nearest_like"]


def resize_nearest_like(x: Tensor, like: Tensor) -> Tensor:
    """Resize by nearest neighbour, with source index floor(i * size / new size).

    Args:
        x: [B, C, h, w].
        like: [B, C', H, W], only its size is used.

    Returns:
        [B, C, H, W].
    """
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=like.shape[2:], mode="nearest")
    rows = positions(like[0, 0, :, 0]) * x.shape[2] // like.shape[2]
    columns = positions(like[0, 0, 0, :]) * x.shape[3] // like.shape[3]
    # Columns first: they are copied element by element, while rows are copied as a whole.
    return paddle.index_select(paddle.index_select(x, columns, axis=3), rows, axis=2)


def resize_bilinear(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly with aligned corners: the first and the last samples of both grids coincide.

    Args:
        x: [B, C, h, w].
        like: [B, C', H, W], only its size is used.

    Returns:
        [B, C, H, W].
    """
    if paddle.in_dynamic_mode():
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
    down = _weights(positions(like[0, 0, :, 0]), positions(x[0, 0, :, 0]))
    across = _weights(positions(like[0, 0, 0, :]), positions(x[0, 0, 0, :]))
    # Without the reshape oneDNN would multiply the output of a convolution, in its blocked layout, as if it were plain.
    planes = paddle.matmul(_with_spare(x.flatten(0, 1), 2), _with_spare(across, 1), transpose_y=True)
    planes = paddle.matmul(_with_spare(down, 1), _with_spare(planes, 1))
    return planes.reshape([-1, x.shape[1], like.shape[2], like.shape[3]])


def _weights(targets: Tensor, sources: Tensor) -> Tensor:
    """Return the weight of every source sample in every target sample, [targets, sources] float32, by index."""
    targets, sources = targets.astype("float32"), sources.astype("float32")
    step = sources.max() / targets.max().clip(min=1.0)
    return F.relu(1.0 - paddle.abs(targets.unsqueeze(1) * step - sources.unsqueeze(0)))


def _with_spare(x: Tensor, axis: int) -> Tensor:
    """Append zeros to ``x`` along the axis (1, or 2 of three) that a product sums over.

    This does not change the product and avoids sums over a single element, for which oneDNN (in Paddle 3.3) reads
    beyond its memory and returns arbitrary numbers.
    """
    first = x[:, :1] if axis == 1 else x[:, :, :1]
    return paddle.concat([x, paddle.zeros_like(first)], axis=axis)
