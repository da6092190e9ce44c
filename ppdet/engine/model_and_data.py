"""Do a model and a data set fit each other? Asked before anything long runs."""

from __future__ import annotations

from typing import Any

from paddle.nn import Layer

from ppdet.modeling.architectures.two_stage import TwoStageDetector
from ppdet.utils.errors import UserError

__all__ = ["check_eval_data", "check_train_data"]


def check_train_data(model: Layer, dataset: Any) -> None:
    """Check that a data set has all that the model learns from.

    Args:
        model: to be trained; models of other kinds than this project's are not checked.
        dataset: ``TrainDataset``.

    Raises:
        UserError: ground truth is missing, or classes differ in number; it names the keys to change.
    """
    if not isinstance(model, TwoStageDetector):
        return
    name = type(model).__name__
    if not getattr(dataset, "training", True):
        raise UserError(
            "TrainDataset has no objects to train on: add 'gt_bbox' and 'gt_class' to TrainDataset.data_fields"
            if hasattr(dataset, "with_masks")
            else f"TrainDataset is {type(dataset).__name__}, which has no objects to train on: use COCODataSet"
        )
    if model.mask_head is not None and not getattr(dataset, "with_masks", True):
        raise UserError(
            f"{name}.mask_head learns from outlines, but TrainDataset.data_fields has no 'gt_poly': add it, or set "
            f"{name}.mask_head to null"
        )
    if model.fused_semantic_head is not None and getattr(dataset, "semantic", True) is None:
        raise UserError(
            f"{name}.fused_semantic_head learns from semantic maps, but TrainDataset.semantic is null: set it, for "
            f"example to {{kind: instances}}, or set {name}.fused_semantic_head to null"
        )
    _check_classes(model, dataset, "TrainDataset")
    classes = getattr(dataset, "semantic_num_classes", None)
    head = getattr(model.fused_semantic_head, "semantic_num_classes", None)
    if head is not None and classes is not None and head != classes:
        raise UserError(
            f"FusedSemanticHead.semantic_num_classes is {head}, but that of TrainDataset is {classes}: "
            "set semantic_num_classes at the top level, which reaches both"
        )


def check_eval_data(model: Layer, dataset: Any) -> None:
    """Check that a data set has the model's classes.

    Args:
        model: to be evaluated; models of other kinds than this project's are not checked.
        dataset: ``EvalDataset``.

    Raises:
        UserError: it names the keys to change.
    """
    if isinstance(model, TwoStageDetector):
        if not hasattr(dataset, "has_annotations"):
            raise UserError(f"EvalDataset is {type(dataset).__name__}, which cannot be evaluated: use COCODataSet")
        _check_classes(model, dataset, "EvalDataset")


def _check_classes(model: TwoStageDetector, dataset: Any, key: str) -> None:
    here, there = getattr(model.bbox_head, "num_classes", None), getattr(dataset, "category_ids", None)
    if here is not None and there is not None and here != len(there):
        raise UserError(
            f"the model has {here} classes, {key} has {len(there)}: set num_classes to {len(there)} at the top level"
        )
