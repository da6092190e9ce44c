"""Whether a model and a dataset fit each other, checked before anything that takes long."""

from __future__ import annotations

from typing import Any

from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.modeling.architectures.contract import check_declarations
from ppdet.utils.errors import UserError

__all__ = ["build_architecture", "check_eval_data", "check_train_data"]


def build_architecture(config: Config) -> Architecture:
    """Build the model that ``architecture`` names.

    Raises:
        UserError: the configuration names no architecture, or a class that is none or declares its attributes wrongly.
    """
    name = RuntimeSettings.from_config(config).architecture
    if not name:
        raise UserError(f"the configuration names no architecture ({config.filename})")
    model = create(config, name)
    if not isinstance(model, Architecture):
        raise UserError(
            f"architecture: {name} cannot be trained, evaluated or exported: derive the class from "
            "ppdet.modeling.architectures.Architecture (see docs/extending.md)"
        )
    called = ("loss", "predict") if type(model).forward is Architecture.forward else ()
    for method in (*called, *(("candidates",) if model.has_candidates else ())):
        if getattr(type(model), method) is getattr(Architecture, method):
            raise UserError(f"architecture: {name} does not define {method}(batch) (see docs/extending.md)")
    check_declarations(model)
    return model


def check_train_data(model: Architecture, dataset: Any) -> None:
    """Check that a dataset supplies all ground truth that a model learns from.

    Args:
        model: to be trained.
        dataset: ``TrainDataset``; one without the attribute ``training_fields`` is not checked for its fields. A field
            that the attribute does not name may also be in ``Sample.extra`` of its samples.

    Raises:
        UserError: ground truth is missing, or the numbers of classes differ; the message names the keys to change.
    """
    supplied = getattr(dataset, "training_fields", None)
    if supplied is not None:
        for field, part in model.training_fields.items():
            if field not in supplied and not (field.startswith("gt_") and field in dataset[0].extra):
                raise UserError(_missing(type(model).__name__, part, field, dataset))
    _check_classes(model, dataset, "TrainDataset")
    classes = getattr(dataset, "semantic_num_classes", None)
    if model.semantic_num_classes is not None and classes is not None and model.semantic_num_classes != classes:
        raise UserError(
            f"{_learner(type(model).__name__, model.training_fields.get('semantic', ''))} has "
            f"{model.semantic_num_classes} semantic classes, but TrainDataset has {classes}: set semantic_num_classes "
            "at the top level of the configuration, which sets both"
        )


def check_eval_data(model: Architecture, dataset: Any) -> None:
    """Check that a dataset can be evaluated and has the classes of a model.

    Args:
        model: to be evaluated.
        dataset: ``EvalDataset``.

    Raises:
        UserError: it cannot, or has not; the message names the keys to change.
    """
    if not hasattr(dataset, "has_annotations"):
        raise UserError(f"EvalDataset is {type(dataset).__name__}, which cannot be evaluated: use COCODataSet")
    _check_classes(model, dataset, "EvalDataset")


def _check_classes(model: Architecture, dataset: Any, key: str) -> None:
    categories = getattr(dataset, "category_ids", None)
    if model.num_classes is not None and categories is not None and model.num_classes != len(categories):
        raise UserError(
            f"the model has {model.num_classes} classes, but {key} has {len(categories)}: set num_classes to "
            f"{len(categories)} at the top level of the configuration"
        )


def _learner(model: str, part: str) -> str:
    """What learns from a field, as a configuration names it."""
    return f"{model}.{part}" if part else model


def _missing(model: str, part: str, field: str, dataset: Any) -> str:
    """The message for a field that a dataset does not supply."""
    learner = _learner(model, part)
    otherwise = f", or set {learner} to null" if part else ""
    if field == "boxes":
        if hasattr(dataset, "training"):
            return "TrainDataset has no objects to train on: add 'gt_bbox' and 'gt_class' to TrainDataset.data_fields"
        return f"TrainDataset is {type(dataset).__name__}, which has no objects to train on: use COCODataSet"
    if field == "masks":
        return (
            f"{learner} learns from masks, but TrainDataset.data_fields does not contain 'gt_poly': add it{otherwise}"
        )
    if field == "semantic":
        return (
            f"{learner} learns from semantic maps, but TrainDataset.semantic is null: set it, for example to "
            f"{{kind: instances}}{otherwise}"
        )
    remedy = "use a dataset that adds it to Sample.extra"
    if field == "gt_keypoint":
        remedy = "add it to TrainDataset.data_fields"
    source = f"TrainDataset ({type(dataset).__name__})"
    return f"{learner} learns from '{field}', which {source} does not supply: {remedy}{otherwise}"
