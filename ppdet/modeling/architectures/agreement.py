"""Checks that the parts of a two-stage detector fit each other, made when the detector is built."""

from __future__ import annotations

from typing import Any, Protocol

from ppdet.core.workspace import ParameterError
from ppdet.modeling.roi_heads.roi_pooler import require_multiple
from ppdet.modeling.shape_spec import ShapeSpec

__all__ = ["check_parts"]


class _Detector(Protocol):
    """The parts of a two-stage detector; those that are None are left out."""

    backbone: Any
    neck: Any
    rpn_head: Any
    bbox_head: Any
    mask_head: Any
    fused_semantic_head: Any


def check_parts(model: _Detector) -> None:
    """Check channels, levels, stages and classes of a detector's parts against each other.

    The check reads the attributes that parts declare (``out_shape``, ``num_classes``, ``num_stages``, ``per_stage``,
    ``semantic_fusion``); attributes that a part does not declare are not checked.

    Raises:
        ParameterError: two parts do not fit; the message names the parameters of both.
    """
    _check_channels(model)
    _check_strides(model)
    _check_classes(model)
    _check_stages(model)
    _check_fusion(model)


def _levels(model: _Detector) -> list[ShapeSpec] | None:
    """Return channels and stride of the maps that the heads get: those of the neck, or without one the backbone's."""
    shapes: list[ShapeSpec] | None = getattr(model.backbone if model.neck is None else model.neck, "out_shape", None)
    return shapes


def _check_channels(model: _Detector) -> None:
    """The heads apply the same weights to every level."""
    levels = _levels(model)
    if levels is None or len({level.channels for level in levels}) <= 1:
        return
    channels = [level.channels for level in levels]
    if model.neck is not None:
        raise ParameterError(
            "the feature maps of {0} have {channels} channels, but the heads need the same number in all",
            "neck",
            channels=channels,
        )
    raise ParameterError(
        "{0} is null, but the feature maps of {1} have {channels} channels and the heads need the same number in all: "
        "return one map, for example [2], and set {2} to [16] and {3} to [[32, 64, 128, 256, 512]], or keep the neck",
        "neck",
        "backbone.return_idx",
        "rpn_head.anchor_generator.strides",
        "rpn_head.anchor_generator.anchor_sizes",
        channels=channels,
    )


def _check_strides(model: _Detector) -> None:
    """Anchors are laid over every level, in its strides."""
    anchors = getattr(getattr(model.rpn_head, "anchor_generator", None), "strides", None)
    levels = _levels(model)
    if anchors is None or levels is None:
        return
    strides = [level.stride for level in levels]
    if list(anchors) == strides:
        return
    sources = ["backbone.return_idx"] if model.neck is None else ["backbone.return_idx", "neck.extra_stage"]
    raise ParameterError(
        "{0} is {anchors}, but the levels have the strides {strides} (from "
        + " and ".join(f"{{{index + 1}}}" for index in range(len(sources)))
        + "): set {0} to {strides}, with a list of anchor_sizes for each level",
        "rpn_head.anchor_generator.strides",
        *sources,
        anchors=list(anchors),
        strides=strides,
    )


def _check_classes(model: _Detector) -> None:
    """All parts that depend on the number of classes have the same."""
    parts = {
        "bbox_head": model.bbox_head,
        "bbox_head.bbox_assigner": getattr(model.bbox_head, "bbox_assigner", None),
        "mask_head": model.mask_head,
    }
    counts = {name: getattr(part, "num_classes", None) for name, part in parts.items()}
    for name, count in counts.items():
        if count is not None and counts["bbox_head"] is not None and count != counts["bbox_head"]:
            raise ParameterError(
                "{0} is {boxes}, but {1} is {part}: set num_classes at the top level, which reaches every part",
                "bbox_head.num_classes",
                f"{name}.num_classes",
                boxes=counts["bbox_head"],
                part=count,
            )


def _check_stages(model: _Detector) -> None:
    """A mask network for each stage needs a cascade with as many stages."""
    if not getattr(model.mask_head, "per_stage", False):
        return
    masks, boxes = getattr(model.mask_head, "num_stages", None), getattr(model.bbox_head, "num_stages", None)
    if boxes is None:
        raise ParameterError(
            "{0} cannot be {mask} with {1} {box}, which has one stage: choose MaskHead",
            "mask_head",
            "bbox_head",
            mask=type(model.mask_head).__name__,
            box=type(model.bbox_head).__name__,
        )
    if masks is not None and masks != boxes:
        raise ParameterError(
            "{0} is {masks}, but {1} is {boxes}: set num_cascade_stages at the top level, which reaches every part",
            "mask_head.num_cascade_stages",
            "bbox_head.num_cascade_stages",
            masks=masks,
            boxes=boxes,
        )


def _check_fusion(model: _Detector) -> None:
    """The semantic feature is added to RoI features: it needs their channels and a multiple of their size."""
    head, semantic, mask_head = model.bbox_head, model.fused_semantic_head, model.mask_head
    fusion = getattr(head, "semantic_fusion", ())
    if semantic is None or not ("bbox" in fusion or ("mask" in fusion and mask_head is not None)):
        return
    levels = _levels(model)
    if levels and semantic.out_channels != levels[0].channels:
        raise ParameterError(
            "{0} is {semantic}, but {1} "
            + ("is" if model.neck is not None else "returns a map with")
            + " {pyramid}: the semantic feature is added to RoI features, so both need the same channels",
            "fused_semantic_head.conv_out_channels",
            "backbone.return_idx" if model.neck is None else "neck.out_channel",
            semantic=semantic.out_channels,
            pyramid=levels[0].channels,
        )
    if "mask" in fusion and mask_head is not None:
        names = ("bbox_head.semantic_roi_extractor.resolution", "mask_head.roi_extractor.resolution")
        require_multiple(head.semantic_roi_extractor, mask_head.roi_extractor, names)
