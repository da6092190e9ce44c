"""Do the parts of a detector fit each other? Asked when they are put together, before any of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppdet.core.workspace import ParameterError
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead
from ppdet.modeling.heads.mask_head import HybridTaskMaskHead
from ppdet.modeling.heads.roi_features import require_multiple

if TYPE_CHECKING:
    from ppdet.modeling.architectures.two_stage import TwoStageDetector

__all__ = ["check_parts"]


def check_parts(model: TwoStageDetector) -> None:
    """Check channels, levels, stages and classes of a detector's parts against each other.

    Parts of other classes than this project's are checked as far as they tell about themselves.

    Raises:
        ParameterError: two parts do not fit; it names the parameters of both.
    """
    _check_levels(model)
    _check_classes(model)
    _check_masks(model)
    _check_fusion(model)


def _check_levels(model: TwoStageDetector) -> None:
    """Anchors are laid over every level of the pyramid, in its strides."""
    anchors = getattr(getattr(model.rpn_head, "anchor_generator", None), "strides", None)
    shapes = getattr(model.neck, "out_shape", None)
    if anchors is None or shapes is None:
        return
    strides = [shape.stride for shape in shapes]
    if list(anchors) != strides:
        raise ParameterError(
            "{0} is {anchors}, but the levels of the pyramid have the strides {strides} (from {1} and {2}): anchors "
            "need the same",
            "rpn_head.anchor_generator.strides",
            "backbone.return_idx",
            "neck.extra_stage",
            anchors=list(anchors),
            strides=strides,
        )


def _check_classes(model: TwoStageDetector) -> None:
    """All parts that know classes know the same number of them."""
    parts = {
        "bbox_head": model.bbox_head,
        "bbox_head.bbox_assigner": getattr(model.bbox_head, "bbox_assigner", None),
        "mask_head": model.mask_head,
    }
    counts = {name: getattr(part, "num_classes", None) for name, part in parts.items()}
    for name, count in counts.items():
        if count is not None and counts["bbox_head"] is not None and count != counts["bbox_head"]:
            raise ParameterError(
                "{0} is {one}, but {1} is {other}: set num_classes at the top level, which reaches every part",
                "bbox_head.num_classes",
                f"{name}.num_classes",
                one=counts["bbox_head"],
                other=count,
            )


def _check_masks(model: TwoStageDetector) -> None:
    """A mask network for each stage needs a cascade of as many stages."""
    if not isinstance(model.mask_head, HybridTaskMaskHead):
        return
    if not isinstance(model.bbox_head, HybridTaskCascadeHead):
        raise ParameterError(
            "{0} cannot be {mask} beside {1} {box}, which has one stage: choose MaskHead",
            "mask_head",
            "bbox_head",
            mask=type(model.mask_head).__name__,
            box=type(model.bbox_head).__name__,
        )
    if model.mask_head.num_stages != model.bbox_head.num_stages:
        raise ParameterError(
            "{0} is {masks}, but {1} is {boxes}: set num_cascade_stages at the top level, which reaches every part",
            "mask_head.num_cascade_stages",
            "bbox_head.num_cascade_stages",
            masks=model.mask_head.num_stages,
            boxes=model.bbox_head.num_stages,
        )


def _check_fusion(model: TwoStageDetector) -> None:
    """The semantic feature is added to RoI features: it needs their channels and a multiple of their size."""
    head, semantic = model.bbox_head, model.fused_semantic_head
    if semantic is None or not isinstance(head, HybridTaskCascadeHead):
        return
    fuses_mask = head.fuse_mask and model.mask_head is not None
    shapes = getattr(model.neck, "out_shape", None)
    if (
        shapes
        and (head.roi_features.semantic is not None or fuses_mask)
        and semantic.out_channels != shapes[0].channels
    ):
        raise ParameterError(
            "{0} is {semantic}, but {1} is {pyramid}: the semantic feature is added to those of the pyramid, so both "
            "need the same channels",
            "fused_semantic_head.conv_out_channels",
            "neck.out_channel",
            semantic=semantic.out_channels,
            pyramid=shapes[0].channels,
        )
    if fuses_mask and model.mask_head is not None:
        names = ("bbox_head.semantic_roi_extractor.resolution", "mask_head.roi_extractor.resolution")
        require_multiple(head.semantic_roi_extractor, model.mask_head.roi_extractor, names)
