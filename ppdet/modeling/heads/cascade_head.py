"""The cascade without HTC's additions (Cascade R-CNN, 1906.09756)."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from ppdet.core.workspace import register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead
from ppdet.modeling.heads.roi_extractor import RoIAlign

__all__ = ["CascadeHead"]


@register
class CascadeHead(HybridTaskCascadeHead):
    """Stages of box refinement, with masks on the input boxes of their stage.

    Arguments as :class:`HybridTaskCascadeHead`, with other defaults.
    """

    __inject__ = {**HybridTaskCascadeHead.__inject__, "head": "CascadeTwoFCHead"}

    def __init__(
        self,
        head: nn.LayerList,
        roi_extractor: RoIAlign,
        semantic_roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: int = 80,
        num_cascade_stages: int = 3,
        bbox_stds: Sequence[Sequence[float]] = (
            (0.1, 0.1, 0.2, 0.2),
            (0.05, 0.05, 0.1, 0.1),
            (0.033, 0.033, 0.067, 0.067),
        ),
        bbox_weight: Sequence[Sequence[float]] | None = None,
        stage_loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        interleaved: bool = False,
        semantic_fusion: Sequence[str] = (),
        reg_class_agnostic: bool = True,
        score_average: str = "logits",
        keep_gt: bool = False,
        smooth_l1_beta: float = 1.0,
        prior_box_var: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            head,
            roi_extractor,
            semantic_roi_extractor,
            bbox_assigner,
            num_classes,
            num_cascade_stages,
            bbox_stds,
            bbox_weight,
            stage_loss_weights,
            interleaved,
            semantic_fusion,
            reg_class_agnostic,
            score_average,
            keep_gt,
            smooth_l1_beta,
            prior_box_var,
        )
