"""PaddleDetection's checkpoints, whose names this project has adopted; its own checkpoints are recognized here, too."""

from __future__ import annotations

from ppdet.checkpoint.source import Source, register_source

__all__ = ["PaddleDetection"]


@register_source
class PaddleDetection(Source):
    """Detectors and ImageNet backbones (whose names lack ``backbone.``) that need no conversion."""

    description = "PaddleDetection's models"
    signature = (r"(backbone\.)?(conv1\.conv1|conv1\.conv1_1|res2\.res2a\.branch2a)\.conv\.weight$",)
    rules = ((r"", ""),)
    native = True
    canaries = {
        "backbone.conv1.conv1.conv.weight": "backbone.conv1.conv1.conv.weight",
        "backbone.res2.res2a.branch2a.norm._mean": "backbone.res2.res2a.branch2a.norm._mean",
        "neck.fpn_inner_res5_sum.weight": "neck.fpn_inner_res5_sum.weight",
        "rpn_head.rpn_feat.rpn_conv.bias": "rpn_head.rpn_feat.rpn_conv.bias",
        "bbox_head.head.fc6.weight": "bbox_head.head.fc6.weight",
        "mask_head.mask_fcn_logits.weight": "mask_head.mask_fcn_logits.weight",
    }
