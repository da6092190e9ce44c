"""Hybrid Task Cascade (1901.07518)."""

from __future__ import annotations

from ppdet.core.workspace import register
from ppdet.modeling.architectures.two_stage import TwoStageDetector

__all__ = ["HybridTaskCascade"]


@register
class HybridTaskCascade(TwoStageDetector):
    """A cascade whose mask branch is interleaved with the box branch, and a semantic branch feeding both.

    For arguments and methods see :class:`~ppdet.modeling.architectures.two_stage.TwoStageDetector`.
    """

    __inject__ = {
        "backbone": "ResNet",
        "neck": "FPN",
        "rpn_head": "RPNHead",
        "bbox_head": "HybridTaskCascadeHead",
        "mask_head": None,
        "fused_semantic_head": None,
        "bbox_post_process": "BBoxPostProcess",
        "mask_post_process": "MaskPostProcess",
    }
