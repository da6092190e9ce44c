"""Mask R-CNN (1703.06870), Faster R-CNN (1506.01497) and Cascade R-CNN (1906.09756)."""

from __future__ import annotations

from ppdet.core.workspace import register
from ppdet.modeling.architectures.two_stage import TwoStageDetector

__all__ = ["CascadeRCNN", "FasterRCNN", "MaskRCNN"]

_SHARED_PARTS = {
    "backbone": "ResNet",
    "neck": "FPN",
    "rpn_head": "RPNHead",
    "mask_head": None,
    "fused_semantic_head": None,
    "bbox_post_process": "BBoxPostProcess",
    "mask_post_process": "MaskPostProcess",
}


@register
class MaskRCNN(TwoStageDetector):
    """One stage of boxes, and masks on its RoIs.

    For arguments and methods see :class:`~ppdet.modeling.architectures.two_stage.TwoStageDetector`.
    """

    __inject__ = {**_SHARED_PARTS, "bbox_head": "BBoxHead", "mask_head": "MaskHead"}


@register
class FasterRCNN(TwoStageDetector):
    """One stage of boxes."""

    __inject__ = {**_SHARED_PARTS, "bbox_head": "BBoxHead"}


@register
class CascadeRCNN(TwoStageDetector):
    """Stages of box refinement; masks of each stage (the authors' design) or of the last one (PaddleDetection's)."""

    __inject__ = {**_SHARED_PARTS, "bbox_head": "CascadeHead"}
