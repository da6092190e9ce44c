"""Heads on top of the feature maps: box, mask and semantic branches."""

from ppdet.modeling.heads.bbox_head import BBoxHead
from ppdet.modeling.heads.cascade_head import CascadeHead
from ppdet.modeling.heads.fused_semantic_head import FusedSemanticHead
from ppdet.modeling.heads.hybrid_task_cascade_head import HybridTaskCascadeHead
from ppdet.modeling.heads.hybrid_task_mask_feat import HybridTaskMaskFeat
from ppdet.modeling.heads.hybrid_task_mask_head import HybridTaskMaskHead
from ppdet.modeling.heads.mask_feat import MaskFeat
from ppdet.modeling.heads.mask_head import MaskHead
from ppdet.modeling.heads.two_fc_head import CascadeTwoFCHead, HybridTaskCascadeTwoFCHead, TwoFCHead

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
    "TwoFCHead",
]
