"""The outputs of a mask branch: the logits of one class and their loss.

Symbols: B images, G ground-truth slots per image, P slots for positive RoIs per image, R RoIs of the whole batch,
K object classes, C channels; H x W is the padded network input, h x w the size of a map.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import Tensor, nn

from ppdet.core.workspace import ParameterError
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.losses.functional import binary_cross_entropy, safe_ratio
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.structures.proposals import SampledRoIs

__all__ = ["logits_of_label", "mask_loss", "require_mask_size"]


def require_mask_size(mask_assigner: MaskAssigner, roi_extractor: RoIAlign) -> None:
    """Check that the targets of a mask head have the size of its maps, twice that of its RoI features.

    Raises:
        ParameterError: the sizes differ.
    """
    if mask_assigner.mask_resolution != 2 * roi_extractor.resolution:
        raise ParameterError(
            "{0} is {targets}, but {1}, {features}, makes mask maps of {maps}: one must be twice the other",
            "mask_assigner.mask_resolution",
            "roi_extractor.resolution",
            targets=mask_assigner.mask_resolution,
            features=roi_extractor.resolution,
            maps=2 * roi_extractor.resolution,
        )


def logits_of_label(x: Tensor, conv: nn.Conv2D, labels: Tensor) -> Tensor:
    """Apply a 1x1 convolution, for each RoI only to the map of its label: a K-th of the work of all maps.

    Args:
        x: [R, C, h, w].
        conv: the convolution to K maps, or to one map for all classes.
        labels: [R] int64.

    Returns:
        [R, h, w].
    """
    maps, channels = conv.weight.shape[:2]
    if maps == 1:
        return conv(x).squeeze(1)
    weight = paddle.gather(conv.weight.reshape([maps, channels]), labels)
    bias = paddle.gather(conv.bias, labels)
    height, width = x.shape[2:]
    logits = paddle.bmm(weight.unsqueeze(1), x.reshape([-1, channels, height * width]))
    return logits.reshape([-1, height, width]) + bias.reshape([-1, 1, 1])


def mask_loss(
    logits_for: Callable[[Tensor], Tensor], rois: SampledRoIs, masks: Tensor, mask_assigner: MaskAssigner
) -> Tensor:
    """Compute the mean cross-entropy over the pixels of the positives' maps; zero without positives.

    Args:
        logits_for: returns the logits [B * P, h, w] for the labels [B * P].
        rois: P slots per image whose ``valid`` marks positives.
        masks: [B, G, H, W] ground-truth bitmaps.
        mask_assigner: makes the targets.
    """
    valid = rois.valid.flatten()
    labels = paddle.where(valid, rois.labels.flatten(), paddle.zeros_like(rois.labels.flatten()))
    logits = logits_for(labels)
    targets = mask_assigner(rois, masks).reshape(logits.shape)
    per_roi = binary_cross_entropy(logits, targets).mean(axis=[1, 2])
    weight = valid.astype("float32")
    return safe_ratio((per_roi * weight).sum(), weight.sum())
