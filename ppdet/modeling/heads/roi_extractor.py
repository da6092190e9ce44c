"""RoI features of a pyramid, as a part that a config can set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from paddle import Tensor

from ppdet import ext_op
from ppdet.core.config.ranges import Bins, Interval, Length, Positive
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.ops.roi_align import pyramid_roi_align
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["RoIAlign"]

_FINEST_LEVEL = 2
"""P number of the pyramid's finest level."""


def _levels(count: int, start: int, end: int) -> slice:
    """Levels ``start`` to ``end``, both included, of ``count``; -1 for all but the coarsest."""
    last = count - 2 if end == -1 else end
    if last >= count:
        raise ParameterError(
            "{0} is {end}, but the pyramid has {count} levels: set at most {last}, or -1 for all but the coarsest",
            "end_level",
            end=end,
            count=count,
            last=count - 1,
        )
    if start > last:
        raise ParameterError(
            "{0} is {start}, beyond the last level, {last}, that {1} leaves of {count}",
            "start_level",
            "end_level",
            start=start,
            last=last,
            count=count,
        )
    return slice(start, last + 1)


@register
class RoIAlign:
    """RoIAlign from the pyramid level that fits each RoI's size.

    Args:
        resolution: side of the output.
        spatial_scale: feature pixels per input pixel, one per level used.
        sampling_ratio: samples per bin and axis; 0 adapts to the RoI's size.
        aligned: half-pixel correction.
        canonical_size: side in pixels from which on a square RoI belongs to the level ``canonical_level`` (FPN,
            equation 1). 224 on P4 puts RoIs below 112 px on P2, as ``finest_scale: 56`` does in mmdetection.
        canonical_level: the P number of that level.
        canconical_level: the same, as PaddleDetection spells it; overrides ``canonical_level``.
        start_level: first level used, 0 = P2.
        end_level: last level used; -1 for all but the coarsest (P6 serves the RPN only). A single map, such as the
            semantic branch's, is used whatever ``start_level`` and ``end_level`` say.
    """

    def __init__(
        self,
        resolution: Bins = 14,
        spatial_scale: Annotated[Sequence[Positive], Length(1, 16)] = (0.25, 0.125, 0.0625, 0.03125),
        sampling_ratio: Annotated[int, Interval(0, 64)] = 0,
        aligned: bool = True,
        canonical_size: Positive = 224.0,
        start_level: Annotated[int, Interval(0, 15)] = 0,
        end_level: Annotated[int, Interval(-1, 15)] = 3,
        canonical_level: Annotated[int, Interval(2, 17)] = 4,
        canconical_level: Annotated[int, Interval(2, 17)] | None = None,
    ) -> None:
        self.resolution = resolution
        self.spatial_scale = tuple(spatial_scale)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        level = canonical_level if canconical_level is None else canconical_level
        self.finest_scale = canonical_size / 2.0 ** (level - _FINEST_LEVEL - start_level)
        self.levels = slice(0, 1) if len(spatial_scale) == 1 else _levels(len(spatial_scale), start_level, end_level)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Take the scales from the neck's ``out_shape``."""
        return {} if input_shape is None else {"spatial_scale": [1.0 / s.stride for s in input_shape]}

    def __call__(self, features: Sequence[Tensor], boxes: Tensor, number: Tensor) -> Tensor:
        """See :func:`~ppdet.modeling.ops.roi_align.pyramid_roi_align`; [R, C, resolution, resolution]."""
        return pyramid_roi_align(
            features[self.levels], boxes, number, self.spatial_scale[self.levels], self.resolution, *self._how()
        )

    def by_extension(self, levels: Sequence[Tensor], boxes: Tensor, number: Tensor, average: int = 1) -> Tensor:
        """The same from the extractor's levels as [B, h, w, C] through the C++ extension.

        Returns:
            [R, C, resolution / average, resolution / average], the mean of ``average`` x ``average`` bins.
        """
        scales, resolution = self.spatial_scale[self.levels], self.resolution // average
        return ext_op.pyramid_roi_align(levels, boxes, number, scales, resolution, *self._how(), average)

    def _how(self) -> tuple[int, bool, float]:
        return self.sampling_ratio, self.aligned, self.finest_scale
