"""``infer_cfg.yml``: what an exported graph takes and returns, and how its inputs are made of images."""

from __future__ import annotations

from typing import Any

import paddle

import ppdet
from ppdet import ext_op
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config, create
from ppdet.data.transform import operators
from ppdet.engine.data import test_dataset
from ppdet.export.nets import ExportNet, choose_form
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.categories import Categories
from ppdet.utils.errors import UserError

__all__ = ["FORMAT", "image_shape", "inference_config", "preprocessing"]

FORMAT = 1
"""Version of the folder's layout; deployment refuses a newer one."""


def inference_config(config: Config, model: Architecture, categories: Categories | None = None) -> dict[str, Any]:
    """Return the content of ``infer_cfg.yml``.

    It has PaddleDetection's keys and, in addition, ``category_ids``, ``mask_threshold``, ``mask_frame``, ``inputs``,
    ``outputs``, ``extra_inputs`` and ``export``.

    Args:
        config: of the model.
        model: built from it.
        categories: the classes of the weights; None takes those of ``TestDataset``.

    Raises:
        UserError: ``TestReader`` has a transform that deployment cannot repeat, or the architecture does not
            support the ``export`` settings.
    """
    settings = RuntimeSettings.from_config(config)
    reader = create(config, "TestReader")
    classes = categories or test_dataset(config, None).categories
    form = choose_form(settings.export, model)
    shape = image_shape(config)
    return {
        "mode": "paddle",
        "draw_threshold": settings.draw_threshold,
        "metric": settings.metric,
        "use_dynamic_shape": all(side is None for side in shape[1:]),
        "arch": model.export_arch or type(model).__name__,
        "min_subgraph_size": model.min_subgraph_size,
        "mask": model.has_masks,
        **_interface(form.net(model)),
        "Preprocess": preprocessing(reader),
        "label_list": list(classes.names),
        "category_ids": list(classes.ids),
        "mask_threshold": model.mask_threshold,
        "export": {
            "format": FORMAT,
            "project": ppdet.__version__,
            "paddle": paddle.__version__,
            "architecture": str(config.architecture),
            "outputs": form.outputs,
            "extension": ext_op.in_use(),
            "image_shape": shape,
        },
    }


def _interface(net: ExportNet) -> dict[str, Any]:
    """Inputs and outputs of the graph by name."""
    model = net.model
    extra = [{"name": field.name, "shape": list(field.shape), "dtype": field.dtype} for field in model.extra_inputs]
    return {
        **({"mask_frame": model.mask_frame} if model.has_masks else {}),
        "inputs": [field.name for field in net.fields],
        "outputs": list(net.output_names),
        **({"extra_inputs": extra} if extra else {}),
    }


def preprocessing(reader: Any) -> list[dict[str, Any]]:
    """Describe the transforms of a reader after Decode, and its padding.

    Raises:
        UserError: a transform that deployment cannot repeat.
    """
    steps: list[dict[str, Any]] = []
    for transform in reader.transforms:
        kind = type(transform).__name__
        if isinstance(transform, operators.Decode):
            continue
        if isinstance(transform, (operators.RandomResize, operators.RandomFlip)):
            raise UserError(f"TestReader has {kind}, whose random result cannot be deployed: remove it")
        if isinstance(transform, operators.Resize):
            size = [int(side) for side in transform.target_size]
            steps.append(
                {"type": kind, "target_size": size, "keep_ratio": transform.keep_ratio, "interp": transform.interp}
            )
        elif isinstance(transform, operators.NormalizeImage):
            mean, std = ([float(value) for value in values] for values in (transform.mean, transform.std))
            steps.append({"type": kind, "is_scale": bool(transform.is_scale), "mean": mean, "std": std})
        elif isinstance(transform, operators.Permute):
            steps.append({"type": kind})
        else:
            raise UserError(f"TestReader has {kind}, which deployment cannot repeat")
    steps.append({"type": "PadStride", "stride": int(reader.padding.pad_to_stride)})
    return steps


def image_shape(config: Config) -> list[int | None]:
    """Return channels, height and width of the graph's image; None where a size is open.

    Raises:
        UserError: ``TestReader.inputs_def.image_shape`` has another form.
    """
    configured = ((config.get("TestReader") or {}).get("inputs_def") or {}).get("image_shape") or [3, None, None]
    shape = [None if side is None or int(side) < 1 else int(side) for side in configured][-3:]
    if len(shape) != 3 or shape[0] != 3:
        raise UserError(
            f"TestReader.inputs_def.image_shape is {list(configured)}, expected [3, height, width] (-1 for open)"
        )
    return shape
