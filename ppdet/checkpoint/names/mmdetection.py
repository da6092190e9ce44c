"""Checkpoints of the authors' implementation: mmdetection 2.x and 3.x, whose names are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import numpy as np
from paddle.nn import Layer

from ppdet.checkpoint.resnet_names import add_first_projection, residual_blocks, resnet_name
from ppdet.checkpoint.source import COMMON_IGNORED, Conversion, Source, first_replacement, register_source
from ppdet.utils.errors import UserError

__all__ = ["MMDetection", "fpn_name"]

_VERSION_1 = re.compile(r"(bbox_head|mask_head)\.(\d\.|shared_fcs|convs)")
_FPN = re.compile(r"neck\.(lateral|fpn)_convs\.(\d)\.conv\.(\w+)$")
_MASK_CONV = re.compile(r"roi_head\.mask_head\.convs\.(\d)\.conv\.(\w+)$")


@register_source
class MMDetection(Source):
    """Mask R-CNN, Cascade Mask R-CNN and HTC."""

    description = "mmdetection's Mask R-CNN, Cascade Mask R-CNN and HTC with ResNet or ResNeXt"
    notice = "has PyTorch's names: converted in memory (tools/convert_weights.py keeps the result)"
    signature = (r"backbone\.(layer1\.0\.)?conv1\.weight$",)
    rules = (
        (r"rpn_head\.rpn_conv\.", "rpn_head.rpn_feat.rpn_conv."),
        (r"rpn_head\.rpn_cls\.", "rpn_head.rpn_rois_score."),
        (r"rpn_head\.rpn_reg\.", "rpn_head.rpn_rois_delta."),
        # cascades: one head per stage
        (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.0\.", r"bbox_head.head.\1.fc6."),
        (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.1\.", r"bbox_head.head.\1.fc7."),
        (r"roi_head\.bbox_head\.(\d)\.fc_cls\.", r"bbox_head.bbox_score_stage\1."),
        (r"roi_head\.bbox_head\.(\d)\.fc_reg\.", r"bbox_head.bbox_delta_stage\1."),
        (r"roi_head\.mask_head\.(\d)\.", r"mask_head.head.\1."),
        (r"roi_head\.semantic_head\.conv_embedding\.conv\.", "fused_semantic_head.conv_embedding."),
        (r"roi_head\.semantic_head\.", "fused_semantic_head."),
        # Mask R-CNN: a single stage
        (r"roi_head\.bbox_head\.shared_fcs\.0\.", "bbox_head.head.fc6."),
        (r"roi_head\.bbox_head\.shared_fcs\.1\.", "bbox_head.head.fc7."),
        (r"roi_head\.bbox_head\.fc_cls\.", "bbox_head.bbox_score."),
        (r"roi_head\.bbox_head\.fc_reg\.", "bbox_head.bbox_delta."),
        (r"roi_head\.mask_head\.upsample\.", "mask_head.head.upsample.conv5_mask."),
        (r"roi_head\.mask_head\.conv_logits\.", "mask_head.mask_fcn_logits."),
    )
    ignored = (*COMMON_IGNORED, (r"ema[_.]", "an average stored next to the weights"))
    hosts = ("download.openmmlab.com",)
    canaries = {
        "backbone.conv1.weight": "backbone.conv1.conv1.conv.weight",
        "backbone.layer3.5.bn2.running_var": "backbone.res4.res4f.branch2b.norm._variance",
        "neck.lateral_convs.3.conv.weight": "neck.fpn_inner_res5_sum.weight",
        "neck.lateral_convs.0.conv.bias": "neck.fpn_inner_res2_sum_lateral.bias",
        "neck.fpn_convs.1.conv.weight": "neck.fpn_res3_sum.weight",
        "rpn_head.rpn_reg.weight": "rpn_head.rpn_rois_delta.weight",
        "roi_head.bbox_head.2.fc_reg.bias": "bbox_head.bbox_delta_stage2.bias",
        "roi_head.mask_head.convs.0.conv.weight": "mask_head.head.upsample.mask_inter_feat_1.weight",
        "roi_head.mask_head.1.conv_res.conv.weight": "mask_head.head.1.conv_res.conv.weight",
        "roi_head.semantic_head.conv_embedding.conv.bias": "fused_semantic_head.conv_embedding.bias",
    }

    def check(self, names: Collection[str]) -> None:
        """Refuse checkpoints of mmdetection 1.x, whose classes are in another order."""
        if any(_VERSION_1.match(name) for name in names):
            raise UserError(
                "the checkpoint has the layout of mmdetection 1.x (its box head is not in roi_head), with another "
                "order of classes; convert it with mmdetection's upgrade_model_version.py first, or take the file of "
                "version 2"
            )

    def renamer(self, names: Collection[str]) -> Callable[[str], str | None]:
        """Map the names of backbone, neck and mask convolutions in code, everything else by the table."""
        blocks = residual_blocks(names)

        def rename(name: str) -> str | None:
            if name.endswith(".num_batches_tracked"):
                return None
            match = _MASK_CONV.match(name)
            if match:
                return f"mask_head.head.upsample.mask_inter_feat_{int(match.group(1)) + 1}.{match.group(2)}"
            return resnet_name(name, blocks) or fpn_name(name) or first_replacement(self.rules, name)

        return rename

    def values(self, model: Layer | None, whole: bool) -> Callable[[str, np.ndarray], np.ndarray]:
        """Transpose fully connected weights: [out, in] in PyTorch, [in, out] in Paddle."""
        return lambda name, array: array.T if array.ndim == 2 and name.endswith(".weight") else array

    def complete(self, result: Conversion) -> None:
        """Add the projection that the first block of a ResNet-18 or ResNet-34 lacks."""
        add_first_projection(result.arrays)


def fpn_name(name: str) -> str | None:
    """Return this project's name of a tensor of mmdetection's FPN, None for any other name."""
    match = _FPN.match(name)
    if match is None:
        return None
    kind, level, parameter = match.group(1), int(match.group(2)), match.group(3)
    stage = f"res{level + 2}_sum"
    if kind == "fpn":
        return f"neck.fpn_{stage}.{parameter}"
    return f"neck.fpn_inner_{stage}{'' if level == 3 else '_lateral'}.{parameter}"
