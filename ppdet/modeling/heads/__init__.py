"""Heads on top of pyramid features."""

from ppdet.modeling.heads.bbox_head import CascadeTwoFCHead, HybridTaskCascadeTwoFCHead, TwoFCHead
from ppdet.modeling.heads.box_branch import BBoxHead
from ppdet.modeling.heads.cascade_head import CascadeHead
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead
from ppdet.modeling.heads.mask_branch import MaskFeat, MaskHead
from ppdet.modeling.heads.mask_head import HybridTaskMaskFeat, HybridTaskMaskHead
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.heads.semantic_head import FusedSemanticHead

__all__ = [
    "BBoxHead",
    "CascadeHead",
    "CascadeTwoFCHead",
    "FusedSemanticHead",
    "HybridTaskCascadeHead",
    "HybridTaskCascadeTwoFCHead",
    "HybridTaskMaskFeat",
    "HybridTaskMaskHead",
    "MaskFeat",
    "MaskHead",
    "RoIAlign",
    "TwoFCHead",
]
