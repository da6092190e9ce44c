"""Anchors of a region proposal network (Faster R-CNN, 1506.01497, section 3.1.1).

Symbols: B images, C channels, A anchors per feature pixel, h x w the size of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import Interval, Length, PositiveInt
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.ops.constants import constant
from ppdet.structures.shapes import positions

__all__ = ["AnchorGenerator"]

_Sizes = Annotated[Sequence[Annotated[float, Interval(0, 65536, open_low=True)]], Length(1, 100)]
_Ratios = Annotated[Sequence[Annotated[float, Interval(0.001, 1000)]], Length(1, 100)]


@register
class AnchorGenerator:
    """Lays anchors of several sizes and aspect ratios over every feature pixel.

    Args:
        anchor_sizes: sides in pixels of the square anchors, a list for each level. The lists have the same length.
        aspect_ratios: height / width; anchors of all ratios have the area of the square.
        strides: input pixels per feature pixel, one for each level.
        offset: position of the first centre in strides; 0 is the corner of the image, as in HTC.

    Raises:
        ParameterError: ``anchor_sizes`` and ``strides`` have different numbers of levels, or levels have different
            numbers of sizes.
    """

    def __init__(
        self,
        anchor_sizes: Annotated[Sequence[_Sizes], Length(1, 16)] = ((32,), (64,), (128,), (256,), (512,)),
        aspect_ratios: _Ratios = (0.5, 1.0, 2.0),
        strides: Annotated[Sequence[PositiveInt], Length(1, 16)] = (4, 8, 16, 32, 64),
        offset: Annotated[float, Interval(0, 1)] = 0.0,
    ) -> None:
        if len(anchor_sizes) != len(strides):
            raise ParameterError(
                "{0} has {sizes} levels, but {1} has {strides}: give both for every level of the pyramid",
                "anchor_sizes",
                "strides",
                sizes=len(anchor_sizes),
                strides=len(strides),
            )
        if len({len(sizes) for sizes in anchor_sizes}) > 1:
            raise ParameterError(
                "{0} has levels with {fewest} and with {largest} sizes: every level needs the same number",
                "anchor_sizes",
                fewest=min(map(len, anchor_sizes)),
                largest=max(map(len, anchor_sizes)),
            )
        self.strides = tuple(strides)
        self.offset = offset
        self.shapes: list[list[list[float]]] = []
        for sizes in anchor_sizes:
            level = []
            for ratio in aspect_ratios:
                for size in sizes:
                    half_w, half_h = 0.5 * size / math.sqrt(ratio), 0.5 * size * math.sqrt(ratio)
                    level.append([-half_w, -half_h, half_w, half_h])
            self.shapes.append(level)

    @property
    def num_anchors(self) -> int:
        """Anchors per feature pixel, A."""
        return len(self.shapes[0])

    def level(self, index: int, feature: Tensor) -> Tensor:
        """Return the anchors of one level.

        Args:
            index: the level.
            feature: [B, C, h, w]; only its size is used.

        Returns:
            [h * w * A, 4] float32 xyxy in pixels of the network input, in the order row, column, shape.
        """
        stride = float(self.strides[index])
        ys = (positions(feature[0, 0, :, 0]).astype("float32") + self.offset) * stride
        xs = (positions(feature[0, 0, 0, :]).astype("float32") + self.offset) * stride
        grid_y, grid_x = paddle.meshgrid(ys, xs)
        centres = paddle.stack([grid_x, grid_y, grid_x, grid_y], axis=-1).reshape([-1, 1, 4])
        shapes = constant(*(side for shape in self.shapes[index] for side in shape)).reshape([1, -1, 4])
        return (centres + shapes).reshape([-1, 4])

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the anchors of every level, see :meth:`level`."""
        return [self.level(i, feature) for i, feature in enumerate(features)]
