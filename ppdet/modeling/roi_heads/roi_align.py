"""RoIAlign on a pyramid as a part that a configuration can set.

Symbols: B images, R RoIs of the whole batch, C channels.
"""

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
"""P number of the finest level of the pyramid."""


def _levels(count: int, start: int, end: int) -> slice:
    """Return the levels from ``start`` to ``end``, both included; -1 stands for all but the coarsest."""
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
            "{0} is {start}, but the last of the {count} levels that {1} includes is {last}: set at most {last}",
            "start_level",
            "end_level",
            start=start,
            last=last,
            count=count,
        )
    return slice(start, last + 1)


@register
class RoIAlign:
    """Pools each RoI from the pyramid level that fits its size (Mask R-CNN, section 3; FPN, equation 1).

    Args:
        resolution: side of the output.
        spatial_scale: feature pixels per input pixel, one for each level.
        sampling_ratio: samples per bin and axis; 0 adapts to the size of the RoI.
        aligned: half-pixel correction.
        canonical_size: side in pixels of the smallest square RoI on the level ``canonical_level``. With 224 on P4, RoIs
            below 112 px are pooled from P2, as with ``finest_scale: 56`` in mmdetection.
        start_level: first level in use, 0 = P2.
        end_level: last level in use; -1 for all but the coarsest (P6 serves the RPN only). A single map, such as the
            semantic feature, is used whatever ``start_level`` and ``end_level`` are.
        canonical_level: P number of the level of ``canonical_size``.
        canconical_level: the same in PaddleDetection's spelling; overrides ``canonical_level``.

    Raises:
        ParameterError: ``start_level`` or ``end_level`` lies beyond the pyramid.
    """

    def __init__(
        self,
        *,
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
        """Derive the scales from the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
        """
        return {} if input_shape is None else {"spatial_scale": [1.0 / s.stride for s in input_shape]}

    def __call__(self, features: Sequence[Tensor], boxes: Tensor, rois_num: Tensor) -> Tensor:
        """Pool [R, C, resolution, resolution], see :func:`~ppdet.modeling.ops.roi_align.pyramid_roi_align`."""
        return pyramid_roi_align(
            features[self.levels], boxes, rois_num, self.spatial_scale[self.levels], self.resolution, *self._sampling()
        )

    def by_extension(self, levels: Sequence[Tensor], boxes: Tensor, rois_num: Tensor, average: int = 1) -> Tensor:
        """Pool by the C++ extension.

        Args:
            levels: the maps of the levels in use, [B, h, w, C].
            boxes: [R, 4] xyxy in pixels of the network input, image by image.
            rois_num: [B] int32, RoIs of each image.
            average: side of the squares of bins that are averaged.

        Returns:
            [R, C, resolution / average, resolution / average].
        """
        scales, resolution = self.spatial_scale[self.levels], self.resolution // average
        return ext_op.pyramid_roi_align(levels, boxes, rois_num, scales, resolution, *self._sampling(), average)

    def _sampling(self) -> tuple[int, bool, float]:
        return self.sampling_ratio, self.aligned, self.finest_scale
