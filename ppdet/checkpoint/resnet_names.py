"""The ResNets of torchvision, whose tensor names most PyTorch projects share, as this project's ResNets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from ppdet.utils.logger import setup_logger

__all__ = ["add_first_projection", "residual_blocks", "resnet_name"]

logger = setup_logger(__name__)

_NORM = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "_mean",
    "running_var": "_variance",
    # paddle.vision's ResNets have torchvision's names except for these two
    "_mean": "_mean",
    "_variance": "_variance",
}
_FIRST_BLOCK = "backbone.res2.res2a."
_NORM_EPSILON = 1e-5
_BLOCK = re.compile(r"backbone\.layer([1-4])\.(\d{1,2})\.(.+)\.(\w+)$")


def residual_blocks(names: Iterable[str]) -> dict[int, int]:
    """Return the number of residual blocks by stage (1 to 4).

    Args:
        names: such as ``backbone.layer1.0.conv1.weight``.
    """
    blocks: dict[int, int] = {}
    for name in names:
        match = _BLOCK.match(name)
        if match:
            stage = int(match.group(1))
            blocks[stage] = max(blocks.get(stage, 0), int(match.group(2)) + 1)
    return blocks


def resnet_name(name: str, blocks: Mapping[int, int]) -> str | None:
    """Return this project's name of a tensor of a ResNet or ResNeXt, None if it has no counterpart.

    Args:
        name: such as ``backbone.layer1.0.conv1.weight``.
        blocks: see `residual_blocks`; this project numbers the blocks of a long third stage differently.
    """
    owner, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return None
    if owner == "backbone.conv1":
        return f"backbone.conv1.conv1.conv.{kind}"
    if owner == "backbone.bn1" and kind in _NORM:
        return f"backbone.conv1.conv1.norm.{_NORM[kind]}"
    match = _BLOCK.match(name)
    if match is None:
        return None
    return _block_name(int(match.group(1)), int(match.group(2)), match.group(3), kind, blocks)


def _block_name(stage: int, index: int, part: str, kind: str, blocks: Mapping[int, int]) -> str | None:
    own_stage = stage + 1
    deep = own_stage == 4 and blocks.get(stage, 0) > 10
    letter = f"b{index}" if deep and index else chr(ord("a") + index)
    if part in ("downsample.0", "downsample.1"):
        branch, layer = "short", ("conv", "norm")[int(part[-1])]
    else:
        match = re.match(r"(conv|bn)([123])(\.conv_offset)?$", part)
        if not match or (match.group(3) and match.group(1) == "bn"):
            return None
        branch = f"branch2{'abc'[int(match.group(2)) - 1]}"
        layer = "conv_offset" if match.group(3) else {"conv": "conv", "bn": "norm"}[match.group(1)]
    if layer == "norm" and kind not in _NORM:
        return None
    kind = _NORM[kind] if layer == "norm" else kind
    return f"backbone.res{own_stage}.res{own_stage}{letter}.{branch}.{layer}.{kind}"


def add_first_projection(arrays: dict[str, np.ndarray]) -> None:
    """Add the projection in the first block of this project's ResNet-18 and ResNet-34, which torchvision's lack.

    It is the identity, so that the network computes the same. Other arrays are left alone.

    Args:
        arrays: converted arrays by this project's names; changed in place.
    """
    weight = arrays.get(f"{_FIRST_BLOCK}branch2a.conv.weight")
    if weight is None or any(f"{_FIRST_BLOCK}{branch}.conv.weight" in arrays for branch in ("branch2c", "short")):
        return
    channels = weight.shape[0]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    arrays[f"{_FIRST_BLOCK}short.conv.weight"] = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    # variance + epsilon is 1, so that the normalization changes nothing
    parameters = {"weight": ones, "bias": zeros, "_mean": zeros, "_variance": ones - _NORM_EPSILON}
    for kind, array in parameters.items():
        arrays[f"{_FIRST_BLOCK}short.norm.{kind}"] = array.astype(np.float32)
    logger.info("the first block has no projection; this project's gets the identity, which computes the same")
