"""Heads on top of pyramid features."""

from ppdet.modeling.heads.bbox_head import HybridTaskCascadeTwoFCHead
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead
from ppdet.modeling.heads.mask_head import HybridTaskMaskFeat, HybridTaskMaskHead
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.heads.semantic_head import FusedSemanticHead

__all__ = [
    "FusedSemanticHead",
    "HybridTaskCascadeHead",
    "HybridTaskCascadeTwoFCHead",
    "HybridTaskMaskFeat",
    "HybridTaskMaskHead",
    "RoIAlign",
]
