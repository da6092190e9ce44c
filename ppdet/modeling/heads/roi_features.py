"""RoI features with the semantic branch's added (HTC, section 3.3)."""

from __future__ import annotations

from paddle import Tensor, is_grad_enabled
from paddle.nn import functional as F

from ppdet import ext_op
from ppdet.core.workspace import ParameterError
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.structures.features import Features

__all__ = ["FusedRoIFeatures", "require_multiple"]


def require_multiple(
    semantic: RoIAlign,
    pyramid: RoIAlign,
    names: tuple[str, str] = ("semantic_roi_extractor.resolution", "roi_extractor.resolution"),
) -> None:
    """Check that semantic RoI features can be averaged down to those of a head.

    Args:
        semantic: extractor on the semantic feature.
        pyramid: extractor on the pyramid.
        names: of the parameters which set their resolutions, for the message.

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


class FusedRoIFeatures:
    """Pyramid features of RoIs, plus those of the semantic branch where there is one.

    Args:
        pyramid: extractor on the pyramid.
        semantic: extractor on the semantic feature, or None for a head that does not fuse. Where its resolution is
            a multiple of the pyramid's, its output is averaged down (14x14 to 7x7 for the box head).
    """

    def __init__(self, pyramid: RoIAlign, semantic: RoIAlign | None) -> None:
        if semantic is not None:
            require_multiple(semantic, pyramid)
        self.pyramid = pyramid
        self.semantic = semantic

    def __call__(self, features: Features, boxes: Tensor, number: Tensor) -> Tensor:
        """[R, C, resolution, resolution] for boxes [R, 4] (input pixels, image by image), number [B] int32."""
        fused = self.semantic is not None and features.semantic is not None
        if ext_op.in_use() and not is_grad_enabled():
            return self._by_extension(features, boxes, number, fused)
        x = self.pyramid(features.pyramid, boxes, number)
        if not fused:
            return x
        assert self.semantic is not None and features.semantic is not None
        extra = self.semantic([features.semantic], boxes, number)
        factor = self.semantic.resolution // self.pyramid.resolution
        return x + (F.avg_pool2d(extra, factor, factor) if factor > 1 else extra)

    def _by_extension(self, features: Features, boxes: Tensor, number: Tensor, fused: bool) -> Tensor:
        x = self.pyramid.by_extension(features.pyramid_channels_last(self.pyramid.levels), boxes, number)
        if not fused:
            return x
        assert self.semantic is not None
        factor = self.semantic.resolution // self.pyramid.resolution
        return x + self.semantic.by_extension([features.semantic_channels_last()], boxes, number, factor)
