"""The cascade without HTC's additions (Cascade R-CNN, 1906.09756)."""

from __future__ import annotations

from ppdet.core.workspace import register
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead

__all__ = ["CascadeHead"]


@register
class CascadeHead(HybridTaskCascadeHead):
    """Stages of box refinement, with masks on the input boxes of their stage and without semantic fusion.

    Arguments as :class:`HybridTaskCascadeHead`.
    """

    __inject__ = {**HybridTaskCascadeHead.__inject__, "head": "CascadeTwoFCHead"}

    interleaved_by_default = False
    fusion_by_default = ()
