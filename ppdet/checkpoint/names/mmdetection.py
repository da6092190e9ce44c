"""Parameter names of the authors' implementation (mmdetection 2.x and 3.x) in this project's terms."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

__all__ = ["official_blocks", "official_name", "official_value"]

_NORM = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "_mean",
    "running_var": "_variance",
    # paddle.vision's ResNets have torchvision's names but for these
    "_mean": "_mean",
    "_variance": "_variance",
}
_BLOCK = re.compile(r"backbone\.layer([1-4])\.(\d{1,2})\.(.+)\.(\w+)$")

_PREFIXES = (
    (re.compile(r"^rpn_head\.rpn_conv\."), "rpn_head.rpn_feat.rpn_conv."),
    (re.compile(r"^rpn_head\.rpn_cls\."), "rpn_head.rpn_rois_score."),
    (re.compile(r"^rpn_head\.rpn_reg\."), "rpn_head.rpn_rois_delta."),
    (re.compile(r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.0\."), r"bbox_head.head.\1.fc6."),
    (re.compile(r"^roi_head\.bbox_head\.(\d)\.shared_fcs\.1\."), r"bbox_head.head.\1.fc7."),
    (re.compile(r"^roi_head\.bbox_head\.(\d)\.fc_cls\."), r"bbox_head.bbox_score_stage\1."),
    (re.compile(r"^roi_head\.bbox_head\.(\d)\.fc_reg\."), r"bbox_head.bbox_delta_stage\1."),
    (re.compile(r"^roi_head\.mask_head\.(\d)\."), r"mask_head.head.\1."),
    (re.compile(r"^roi_head\.semantic_head\.conv_embedding\.conv\."), "fused_semantic_head.conv_embedding."),
    (re.compile(r"^roi_head\.semantic_head\."), "fused_semantic_head."),
    # heads of one stage, as Mask R-CNN has them
    (re.compile(r"^roi_head\.bbox_head\.shared_fcs\.0\."), "bbox_head.head.fc6."),
    (re.compile(r"^roi_head\.bbox_head\.shared_fcs\.1\."), "bbox_head.head.fc7."),
    (re.compile(r"^roi_head\.bbox_head\.fc_cls\."), "bbox_head.bbox_score."),
    (re.compile(r"^roi_head\.bbox_head\.fc_reg\."), "bbox_head.bbox_delta."),
    (re.compile(r"^roi_head\.mask_head\.upsample\."), "mask_head.head.upsample.conv5_mask."),
    (re.compile(r"^roi_head\.mask_head\.conv_logits\."), "mask_head.mask_fcn_logits."),
)
_MASK_CONV = re.compile(r"^roi_head\.mask_head\.convs\.(\d)\.conv\.(\w+)$")


def official_blocks(names: Iterable[str]) -> dict[int, int]:
    """Number of residual blocks in each stage (1..4) of a checkpoint."""
    blocks: dict[int, int] = {}
    for name in names:
        found = _BLOCK.match(name)
        if found:
            stage = int(found.group(1))
            blocks[stage] = max(blocks.get(stage, 0), int(found.group(2)) + 1)
    return blocks


def official_name(name: str, blocks: dict[int, int]) -> str | None:
    """This project's name of an official tensor; None for one that has no counterpart.

    Args:
        name: official name.
        blocks: from :func:`official_blocks`, for deep networks name their fourth stage's blocks differently.
    """
    owner, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return None
    if owner == "backbone.conv1":
        return f"backbone.conv1.conv1.conv.{kind}"
    if owner == "backbone.bn1" and kind in _NORM:
        return f"backbone.conv1.conv1.norm.{_NORM[kind]}"
    found = _BLOCK.match(name)
    if found:
        return _block_name(int(found.group(1)), int(found.group(2)), found.group(3), kind, blocks)
    found = re.match(r"neck\.(lateral|fpn)_convs\.(\d)\.conv\.(\w+)$", name)
    if found:
        return _neck_name(found.group(1), int(found.group(2)), found.group(3))
    found = _MASK_CONV.match(name)
    if found:
        return f"mask_head.head.upsample.mask_inter_feat_{int(found.group(1)) + 1}.{found.group(2)}"
    for pattern, replacement in _PREFIXES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return None


def _block_name(stage: int, index: int, part: str, kind: str, blocks: dict[int, int]) -> str | None:
    number = stage + 1
    deep = number == 4 and blocks.get(stage, 0) > 10
    letter = f"b{index}" if deep and index else chr(ord("a") + index)
    if part in ("downsample.0", "downsample.1"):
        branch, layer = "short", ("conv", "norm")[int(part[-1])]
    else:
        found = re.match(r"(conv|bn)([123])(\.conv_offset)?$", part)
        if not found or (found.group(3) and found.group(1) == "bn"):
            return None
        branch = f"branch2{'abc'[int(found.group(2)) - 1]}"
        layer = "conv_offset" if found.group(3) else {"conv": "conv", "bn": "norm"}[found.group(1)]
    if layer == "norm" and kind not in _NORM:
        return None
    kind = _NORM[kind] if layer == "norm" else kind
    return f"backbone.res{number}.res{number}{letter}.{branch}.{layer}.{kind}"


def _neck_name(kind: str, level: int, parameter: str) -> str:
    stage = f"res{level + 2}_sum"
    if kind == "fpn":
        return f"neck.fpn_{stage}.{parameter}"
    return f"neck.fpn_inner_{stage}{'' if level == 3 else '_lateral'}.{parameter}"


def official_value(name: str, value: np.ndarray) -> np.ndarray:
    """View of a tensor in this project's layout: fully connected weights are [in, out] here and [out, in] there."""
    return value.T if value.ndim == 2 and name.endswith(".weight") else value
