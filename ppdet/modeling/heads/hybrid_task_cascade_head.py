"""Box branches of Hybrid Task Cascade (1901.07518): a cascade with interleaving and semantic fusion.

Symbols: K object classes, T stages; those of tensors are the symbols of :mod:`ppdet.modeling.heads.cascade_head`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from paddle import nn

from ppdet.core.config.ranges import ClassCount, NonNegative, OneOf, StageCount
from ppdet.core.workspace import create, register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.cascade_head import CascadeHead, Stds, Weights
from ppdet.modeling.roi_heads.hybrid_task_cascade_roi_heads import HybridTaskCascadeRoIHeads
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.roi_heads.roi_pooler import require_multiple
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["HybridTaskCascadeHead"]


@register
class HybridTaskCascadeHead(CascadeHead):
    """The cascade of HTC. Arguments that are not listed are those of :class:`CascadeHead`.

    Args:
        semantic_roi_extractor: pools the semantic feature, for box and mask branch alike.
        interleaved: the mask branch of a stage trains on the boxes that this stage has refined, not on those that it
            was given (section 3.2).
        semantic_fusion: the branches whose RoI features include the semantic feature, ``bbox``, ``mask`` or both
            (section 3.3).

    Raises:
        ParameterError: as :class:`CascadeHead`; also if the semantic RoI features cannot be averaged down to those of
            the box branch.
    """

    __inject__ = {
        "head": "HybridTaskCascadeTwoFCHead",
        "roi_extractor": "RoIAlign",
        "semantic_roi_extractor": "RoIAlign",
        "bbox_assigner": "BBoxAssigner",
    }

    roi_heads_class: ClassVar[type[HybridTaskCascadeRoIHeads]] = HybridTaskCascadeRoIHeads

    def __init__(
        self,
        *,
        head: nn.LayerList,
        roi_extractor: RoIAlign,
        semantic_roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: ClassCount = 80,
        num_cascade_stages: StageCount = 3,
        bbox_stds: Stds = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
        stage_loss_weights: Weights = (1.0, 0.5, 0.25),
        interleaved: bool = True,
        semantic_fusion: Sequence[Annotated[str, OneOf("bbox", "mask")]] = ("bbox", "mask"),
        reg_class_agnostic: bool = True,
        score_average: Annotated[str, OneOf("logits", "probabilities")] = "logits",
        keep_gt: bool = False,
        smooth_l1_beta: NonNegative = 1.0,
    ) -> None:
        super().__init__(
            head=head,
            roi_extractor=roi_extractor,
            bbox_assigner=bbox_assigner,
            num_classes=num_classes,
            num_cascade_stages=num_cascade_stages,
            bbox_stds=bbox_stds,
            stage_loss_weights=stage_loss_weights,
            reg_class_agnostic=reg_class_agnostic,
            score_average=score_average,
            keep_gt=keep_gt,
            smooth_l1_beta=smooth_l1_beta,
        )
        if "bbox" in semantic_fusion:
            require_multiple(semantic_roi_extractor, roi_extractor)
        self.semantic_roi_extractor = semantic_roi_extractor
        self.interleaved = interleaved
        self.semantic_fusion = tuple(semantic_fusion)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, semantic_stride: int = 8, **_: Any
    ) -> dict[str, Any]:
        """Build the parts that depend on the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
            semantic_stride: stride of the semantic feature.
        """
        # The channels of the semantic feature do not matter to the extractor.
        semantic = create(cfg["semantic_roi_extractor"], input_shape=[ShapeSpec(1, semantic_stride)])
        return {**super().from_config(cfg, input_shape), "semantic_roi_extractor": semantic}
