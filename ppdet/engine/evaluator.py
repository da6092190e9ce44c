"""Evaluation of a model on a dataset, by one process or several."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from deploy.common.json_file import read_json
from deploy.common.model_outputs import check_outputs
from ppdet.engine.data import EvalData
from ppdet.engine.distributed.env import gather_objects, is_main, world_size
from ppdet.engine.distributed.interrupt import stop_if_asked
from ppdet.engine.distributed.peers import note_progress
from ppdet.engine.precision import Precision
from ppdet.metrics.metric import Metric
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.structures.predictions import Predictions
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import Reminder, format_duration

__all__ = ["evaluate", "evaluate_json", "predict_batch", "to_host"]

logger = setup_logger(__name__)


def to_host(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tensors of a dictionary to the host; other values are returned unchanged."""
    return {name: np.asarray(value.numpy()) if isinstance(value, Tensor) else value for name, value in values.items()}


def predict_batch(model: Architecture, batch: Mapping[str, Any], precision: Precision | None = None) -> dict[str, Any]:
    """Predict on a batch and copy the result to the host.

    Args:
        model: in eval mode.
        batch: of a reader.
        precision: how to compute; float32 by default.

    Returns:
        Arrays by name, see :meth:`~ppdet.structures.predictions.Predictions.to_outputs`.

    Raises:
        UserError: the model returns something else than :class:`Predictions`, detections that do not add up to its
            counts, or labels of classes that do not exist.
    """
    with paddle.no_grad(), (precision or Precision()).context():
        predictions: Predictions = model(batch)
        outputs = predictions.to_host()
    source, remedy = f"{type(model).__name__}.predict", "see ppdet/structures/predictions.py"
    check_outputs(outputs, len(batch["image"]), model.num_classes, source, remedy)
    return outputs


def evaluate(
    model: Architecture,
    loader: Iterable[Mapping[str, Any]],
    metric: Metric,
    log_iter: int,
    precision: Precision | None = None,
) -> dict[str, list[float]]:
    """Evaluate a model on this rank's share of the images, and compute the metric from all shares.

    The mode of the model (training or eval) is restored.

    Args:
        model: the bare model, not its DataParallel wrapper.
        loader: the batches of this rank; no image is on two ranks.
        metric: without predictions so far.
        log_iter: batches between two log lines; lines are also logged after the first batch and every minute.
        precision: how to compute; float32 by default.

    Returns:
        COCO's twelve numbers under ``bbox`` and ``mask``, whichever the model predicts; empty on other ranks than 0,
        and without ground truth.

    Raises:
        UserError: there are no images.
        AgreedStop: Ctrl-C during a training.
    """
    was_training = model.training
    model.eval()
    begun, images = time.perf_counter(), 0
    inputs = {field.name for field in model.input_fields}
    progress = _Progress(loader, log_iter)
    try:
        for index, batch in enumerate(loader):
            outputs = predict_batch(model, batch, precision)
            metric.update(to_host({name: value for name, value in batch.items() if name not in inputs}), outputs)
            images += len(outputs["bbox_num"])
            note_progress(f"evaluates batch {index + 2}")
            progress.update(index + 1, images)
            stop_if_asked()
    finally:
        if was_training:
            model.train()
    return _conclude(metric, images, time.perf_counter() - begun)


class _Progress:
    """Log lines during an evaluation.

    Args:
        loader: the batches of this rank; another rank may have one more or less.
        log_iter: batches between two lines.
    """

    def __init__(self, loader: Iterable[Mapping[str, Any]], log_iter: int) -> None:
        self._batches = len(loader) if isinstance(loader, Sized) else 0
        dataset = getattr(loader, "dataset", None)
        self._images = len(dataset) if isinstance(dataset, Sized) else 0
        self._log_iter = log_iter
        self._begun = time.perf_counter()
        self._reminder = Reminder()

    def update(self, batches: int, images: int) -> None:
        """Log a line if one is due.

        Args:
            batches: number of batches that this rank has finished.
            images: number of images in them.
        """
        if batches == self._batches or not (batches % self._log_iter == 0 or self._reminder.due()):
            return
        self._reminder.reset()
        done = images * world_size()
        speed = done / max(time.perf_counter() - self._begun, 1e-9)
        if self._images and self._batches:
            eta = format_duration((self._batches - batches) * (time.perf_counter() - self._begun) / batches)
            total = f"{min(done, self._images)} of {self._images}"
            logger.info("evaluated %s images, %.2f img/s, eta %s", total, speed, eta)
        else:
            logger.info("evaluated %d images, %.2f img/s", done, speed)


def _conclude(metric: Metric, images: int, seconds: float) -> dict[str, list[float]]:
    """Gather the predictions of all ranks, and compute the metric on rank 0."""
    total = images
    note_progress("puts the predictions together")
    if world_size() > 1:
        shares = gather_objects((images, metric.state()))
        total = sum(count for count, _ in shares)
        metric.load_state([state for _, state in shares])
    if total == 0:
        raise UserError("there are no images to evaluate; check EvalDataset")
    if not is_main():
        return {}
    logger.info("evaluated %d images in %.1f s, %.2f images/s", total, seconds, total / max(seconds, 1e-9))
    metric.accumulate()
    metric.log()
    return dict(metric.get_results())


def evaluate_json(data: EvalData, folder: str | Path) -> dict[str, list[float]]:
    """Evaluate predictions that an earlier evaluation has written.

    Args:
        data: dataset with ground truth, and the options of the metric.
        folder: contains ``bbox.json``, ``mask.json``, or both.

    Returns:
        COCO's twelve numbers under ``bbox`` and ``mask``, as far as there are files.

    Raises:
        UserError: both files are missing, or one is not a list of COCO results.
    """
    files = {kind: Path(folder) / f"{kind}.json" for kind in ("bbox", "mask")}
    existing = {kind: file for kind, file in files.items() if file.exists()}
    if not existing:
        raise UserError(
            f"{folder} contains neither bbox.json nor mask.json: --json_eval measures the predictions in the folder "
            "that --output_eval names"
        )
    results = {}
    for kind, file in existing.items():
        rows = read_json(file, "file of predictions", "--json_eval measures it")
        if not isinstance(rows, list):
            raise UserError(f"{file} is not a list of COCO results; --json_eval takes what --output_eval wrote")
        results[kind] = rows
    if not data.dataset.has_annotations:
        raise UserError(f"{data.dataset.anno_path} has no annotations: there is nothing to measure predictions against")
    metric = data.metric()
    metric.load_results(results)
    metric.accumulate()
    metric.log()
    return dict(metric.get_results())
