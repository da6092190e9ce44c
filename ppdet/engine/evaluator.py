"""Running a model over a dataset and measuring it, on one process or split over several."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import Layer

from deploy.common.json_file import read_json
from ppdet.engine.data import EvalData
from ppdet.engine.distributed.env import gather_objects, is_main, world_size
from ppdet.engine.distributed.interrupt import stop_if_asked
from ppdet.engine.distributed.peers import note_progress
from ppdet.engine.precision import Precision
from ppdet.structures.predictions import Predictions
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.stats import Reminder, format_duration

__all__ = ["evaluate", "evaluate_json", "predict_batch", "to_host"]

logger = setup_logger(__name__)


def to_host(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tensors of a dictionary to the host; everything else stays as it is."""
    return {name: np.asarray(value.numpy()) if isinstance(value, Tensor) else value for name, value in values.items()}


def predict_batch(model: Layer, batch: Mapping[str, Any], precision: Precision | None = None) -> dict[str, Any]:
    """Return the model's predictions for a batch on the host.

    Args:
        model: in eval mode.
        batch: a reader's batch.
        precision: how to compute; float32 by default.

    Returns:
        The arrays by name, see :meth:`~ppdet.structures.predictions.Predictions.to_outputs`.
    """
    with paddle.no_grad(), (precision or Precision()).context():
        predictions: Predictions = model(batch)
        return predictions.to_host()


def evaluate(
    model: Layer, loader: Iterable[Mapping[str, Any]], metric: Any, log_iter: int, precision: Precision | None = None
) -> dict[str, list[float]]:
    """Measure ``model`` on this rank's share of the images; the shares are put together before the numbers are made.

    The model comes back in the mode (training or not) that it had.

    Args:
        model: the bare model, not its DataParallel wrapper.
        loader: this rank's batches; with several ranks no image is on two of them.
        metric: a COCO metric (``update``, ``state``, ``load_state``, ``accumulate``, ``log``, ``get_results``).
        log_iter: batches between two lines in the log; there is one after the first batch and each minute, too.
        precision: how to compute; float32 by default.

    Returns:
        COCO's twelve numbers by ``bbox`` and ``mask``; empty on other ranks than 0, and where there is no ground truth.

    Raises:
        UserError: there is nothing to evaluate.
        AgreedStop: Ctrl-C in the middle of a training.
    """
    was_training = model.training
    model.eval()
    begun, images = time.perf_counter(), 0
    progress = _Progress(loader, log_iter)
    try:
        for index, batch in enumerate(loader):
            outputs = predict_batch(model, batch, precision)
            metric.update(to_host({name: value for name, value in batch.items() if name != "image"}), outputs)
            images += len(outputs["bbox_num"])
            note_progress(f"evaluates batch {index + 2}")
            progress.update(index + 1, images)
            stop_if_asked()
    finally:
        if was_training:
            model.train()
    return _conclude(metric, images, time.perf_counter() - begun)


class _Progress:
    """Log lines of an evaluation under way.

    Args:
        loader: this rank's batches; others may have a batch more or less.
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
        """Log a line where one is due, after so many batches and images of this rank."""
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


def _conclude(metric: Any, images: int, seconds: float) -> dict[str, list[float]]:
    """Put the ranks' predictions together and make the numbers, on rank 0."""
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
    return dict(metric.get_results() or {})


def evaluate_json(data: EvalData, folder: str | Path) -> dict[str, list[float]]:
    """Measure predictions that an earlier evaluation wrote.

    Args:
        data: dataset with ground truth, and the metric's options.
        folder: contains ``bbox.json``, ``mask.json``, or both.

    Returns:
        COCO's twelve numbers by ``bbox`` and ``mask``.

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
    data.options.pop("output_eval", None)  # they are written already
    metric = data.metric()
    metric.load_results(results)
    metric.accumulate()
    metric.log()
    return dict(metric.get_results())
