"""Hybrid Task Cascade (1901.07518): interleaved box and mask branches with semantic fusion.

Symbols: those of :mod:`ppdet.modeling.roi_heads.roi_heads`.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from ppdet.modeling.roi_heads.cascade_roi_heads import CascadeRoIHeads
from ppdet.modeling.roi_heads.parts import HybridBranch, MaskBranch, SemanticBranch
from ppdet.modeling.roi_heads.roi_heads import maps_in_float32
from ppdet.modeling.roi_heads.roi_pooler import RoIPooler
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs

__all__ = ["HybridTaskCascadeRoIHeads"]


class HybridTaskCascadeRoIHeads(CascadeRoIHeads[HybridBranch]):
    """A cascade whose mask networks train on refined boxes and whose RoI features include the semantic feature.

    For arguments and methods see :class:`~ppdet.modeling.roi_heads.roi_heads.RoIHeads`.
    """

    def __init__(
        self, bbox_head: HybridBranch, mask_head: MaskBranch | None = None, semantic_head: SemanticBranch | None = None
    ) -> None:
        super().__init__(bbox_head, mask_head, semantic_head)
        if semantic_head is None:
            return
        semantic = bbox_head.semantic_roi_extractor
        if "bbox" in bbox_head.semantic_fusion:
            self.box_pooler = RoIPooler(bbox_head.roi_extractor, semantic)
        if mask_head is not None and "mask" in bbox_head.semantic_fusion:
            self.mask_pooler = RoIPooler(mask_head.roi_extractor, semantic)

    def feature_maps(self, pyramid: Sequence[Tensor]) -> Features:
        """See the base class; includes the semantic feature (section 3.3)."""
        # Not super().feature_maps: Paddle 2.6 cannot trace super() without arguments.
        if self.semantic_head is None or not self.bbox_head.semantic_fusion:
            return maps_in_float32(pyramid, None)
        return maps_in_float32(pyramid, self.semantic_head(pyramid).feature)

    def mask_rois(self, rois: SampledRoIs, refined: Proposals, targets: Targets, stage: int) -> SampledRoIs:
        """Sample again from the refined boxes, by the IoU of the same stage (interleaved execution, section 3.2)."""
        return self.bbox_head.bbox_assigner(refined, targets, stage) if self.bbox_head.interleaved else rois
