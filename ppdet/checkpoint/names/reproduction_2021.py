"""The checkpoint of the 2021 Paddle reproduction of HTC (R-50, 42.6 box AP, 37.9 mask AP on COCO).

Its backbone, RPN and box heads have PaddleDetection's names, its neck has mmdetection's, and its mask head belongs to
the box head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from paddle.nn import Layer

from ppdet.checkpoint.names.mmdetection import fpn_name
from ppdet.checkpoint.source import Source, first_replacement, register_source
from ppdet.utils.errors import UserError

__all__ = ["Reproduction2021"]

_STDS = (1 / 30, 1 / 30, 1 / 15, 1 / 15)
"""Standard deviations of the box deltas in the third stage; the official ones are .033 and .067."""


@register_source
class Reproduction2021(Source):
    """HTC with three stages."""

    description = "the HTC of the 2021 Paddle reproduction"
    notice = "is the 2021 Paddle reproduction's: names mapped, deltas of stage 3 rescaled"
    signature = (r"bbox_head\.mask_head\.", r"neck\.lateral_convs\.0\.conv\.weight$")
    rules = (
        (r"bbox_head\.mask_head\.", "mask_head."),
        (r"", ""),  # all other names are this project's
    )
    prefixes = ()
    needs_model = True
    canaries = {
        "neck.lateral_convs.0.conv.weight": "neck.fpn_inner_res2_sum_lateral.weight",
        "neck.lateral_convs.3.conv.weight": "neck.fpn_inner_res5_sum.weight",
        "neck.fpn_convs.1.conv.weight": "neck.fpn_res3_sum.weight",
        "bbox_head.mask_head.head.2.conv_res.conv.weight": "mask_head.head.2.conv_res.conv.weight",
        "bbox_head.bbox_delta_stage2.weight": "bbox_head.bbox_delta_stage2.weight",
        "backbone.res4.res4f.branch2c.norm._variance": "backbone.res4.res4f.branch2c.norm._variance",
    }

    def renamer(self, names: Collection[str]) -> Callable[[str], str | None]:
        """Map the neck as mmdetection's, everything else by the table."""
        return lambda name: fpn_name(name) or first_replacement(self.rules, name)

    def values(self, model: Layer | None, whole: bool) -> Callable[[str, np.ndarray], np.ndarray]:
        """Scale the third stage's deltas by the ratio of its standard deviations to the model's.

        A box is decoded from delta * std, so that every box stays where it was.
        """
        ratio = np.array(_STDS) / np.array(_third_stds(model, whole))

        def convert(name: str, array: np.ndarray) -> np.ndarray:
            if not name.startswith("bbox_head.bbox_delta_stage2."):
                return array
            return (array * np.tile(ratio, array.shape[-1] // 4)).astype(array.dtype)

        return convert


def _third_stds(model: Layer | None, whole: bool) -> tuple[float, ...]:
    """Return the standard deviations in the third stage of a model; the checkpoint's own if a related model will do."""
    stds: list[tuple[float, ...]] = getattr(getattr(model, "bbox_head", None), "bbox_stds", [])
    if len(stds) == 3:
        return stds[2]
    if whole:
        raise UserError("the checkpoint is the 2021 reproduction's HTC of three stages; this model is another one")
    return _STDS
