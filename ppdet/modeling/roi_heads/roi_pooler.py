"""RoI features of feature maps, with those of the semantic branch added (HTC, 1901.07518, section 3.3).

Symbols: B images, R RoIs of the whole batch, C channels and s side of a RoI feature.
"""

from __future__ import annotations

from paddle import Tensor, is_grad_enabled
from paddle.nn import functional as F

from ppdet import ext_op
from ppdet.core.workspace import ParameterError
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.structures.features import Features

__all__ = ["RoIPooler", "require_multiple"]


def require_multiple(
    semantic: RoIAlign,
    pyramid: RoIAlign,
    names: tuple[str, str] = ("semantic_roi_extractor.resolution", "roi_extractor.resolution"),
) -> None:
    """Check that semantic RoI features can be averaged down to the size of those of a head.

    Args:
        semantic: extractor on the semantic feature.
        pyramid: extractor on the pyramid.
        names: the parameters that set the resolutions, for the message.

    Raises:
        ParameterError: the first resolution is no multiple of the second.
    """
    if semantic.resolution % pyramid.resolution:
        raise ParameterError(
            "{0} is {fine}, which is no multiple of {1}, {coarse}: the semantic feature is averaged down to it",
            *names,
            fine=semantic.resolution,
            coarse=pyramid.resolution,
        )


class RoIPooler:
    """Pools the RoI features of one branch.

    Args:
        pyramid: extractor on the pyramid.
        semantic: extractor on the semantic feature, or None for a branch without semantic fusion. Where its resolution
            is a multiple of the pyramid's, its output is averaged down (14 x 14 to 7 x 7 for the box branch).
    """

    def __init__(self, pyramid: RoIAlign, semantic: RoIAlign | None = None) -> None:
        if semantic is not None:
            require_multiple(semantic, pyramid)
        self.pyramid = pyramid
        self.semantic = semantic

    def __call__(self, features: Features, boxes: Tensor, rois_num: Tensor) -> Tensor:
        """Pool the features of RoIs.

        Args:
            features: the maps.
            boxes: [R, 4] xyxy in pixels of the network input, image by image.
            rois_num: [B] int32, RoIs of each image.

        Returns:
            [R, C, s, s].
        """
        fused = self.semantic is not None and features.semantic is not None
        if ext_op.in_use() and not is_grad_enabled():
            return self._by_extension(features, boxes, rois_num, fused)
        x = self.pyramid(features.pyramid, boxes, rois_num)
        if not fused:
            return x
        assert self.semantic is not None and features.semantic is not None
        extra = self.semantic([features.semantic], boxes, rois_num)
        factor = self.semantic.resolution // self.pyramid.resolution
        return x + (F.avg_pool2d(extra, factor, factor) if factor > 1 else extra)

    def _by_extension(self, features: Features, boxes: Tensor, rois_num: Tensor, fused: bool) -> Tensor:
        x = self.pyramid.by_extension(features.pyramid_channels_last(self.pyramid.levels), boxes, rois_num)
        if not fused:
            return x
        assert self.semantic is not None
        factor = self.semantic.resolution // self.pyramid.resolution
        return x + self.semantic.by_extension([features.semantic_channels_last()], boxes, rois_num, factor)
