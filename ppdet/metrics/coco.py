"""COCO's average precision of boxes and masks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deploy.common.atomic import atomic_path
from deploy.common.detections import Detections
from deploy.common.model_outputs import split_outputs
from deploy.common.printable import one_line
from ppdet.data.source.annotations import image_size
from ppdet.metrics.ground_truth import Truth, checked_results, coco_index, load_truth
from ppdet.utils.logger import setup_logger

__all__ = ["COCOMetric", "twelve_lines"]

logger = setup_logger(__name__)

_KINDS = {"bbox": "bbox", "mask": "segm"}
"""Names of the kinds of results in this project, and their names in COCO's evaluation."""
_TITLES = {"bbox": "box AP", "mask": "mask AP"}


_LINES = (
    ("Average Precision", "AP", "0.50:0.95", "all", 100),
    ("Average Precision", "AP", "0.50", "all", 100),
    ("Average Precision", "AP", "0.75", "all", 100),
    ("Average Precision", "AP", "0.50:0.95", "small", 100),
    ("Average Precision", "AP", "0.50:0.95", "medium", 100),
    ("Average Precision", "AP", "0.50:0.95", "large", 100),
    ("Average Recall", "AR", "0.50:0.95", "all", 1),
    ("Average Recall", "AR", "0.50:0.95", "all", 10),
    ("Average Recall", "AR", "0.50:0.95", "all", 100),
    ("Average Recall", "AR", "0.50:0.95", "small", 100),
    ("Average Recall", "AR", "0.50:0.95", "medium", 100),
    ("Average Recall", "AR", "0.50:0.95", "large", 100),
)


def twelve_lines(numbers: Sequence[float]) -> str:
    """Return COCO's summary in the format of pycocotools, which scripts parse."""
    return "\n".join(
        f" {title:<18} ({short}) @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:0.3f}"
        for (title, short, iou, area, limit), value in zip(_LINES, numbers)
    )


def _evaluator() -> tuple[Any, Any]:
    """Return faster-coco-eval if it is installed, else pycocotools; both give equal numbers, which a test verifies."""
    try:
        # It logs its progress, whereas pycocotools prints it; here, only the results are logged.
        logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    return COCO, COCOeval


class COCOMetric:
    """Collects predictions, writes them as JSON and computes COCO's average precision.

    Boxes are written and measured if the model predicts boxes, masks if it predicts masks.

    Args:
        dataset: the evaluated data set, with ``anno_path``, ``category_ids``, ``class_names`` and ``has_annotations``.
        classwise: also log a table with the average precision of each class.
        output_eval: folder for ``bbox.json`` and ``mask.json``. By default, they are only written if nothing is
            measured (without ground truth, or with ``save_prediction_only``), to the working directory.
        save_prediction_only: write the predictions without measuring them.
        threshold: a pixel belongs to a mask if its probability is at least this value.
    """

    def __init__(
        self,
        dataset: Any,
        classwise: bool = False,
        output_eval: str | None = None,
        save_prediction_only: bool = False,
        threshold: float = 0.5,
    ) -> None:
        self.dataset = dataset
        self.classwise = classwise
        self.output_eval = output_eval
        self.measures = bool(dataset.has_annotations) and not save_prediction_only
        self.threshold = threshold
        self._image_ids: list[int] = []
        self._results: dict[str, list[dict[str, Any]]] = {}
        self._numbers: dict[str, list[float]] = {}
        self._tables: dict[str, str] = {}

    def update(self, batch: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> None:
        """Add the predictions of a batch.

        Args:
            batch: ``im_id`` [B], ``orig_size`` [B, 2] (h, w).
            outputs: arrays by name, see :mod:`deploy.common.model_outputs`.
        """
        names, ids = self.dataset.class_names, self.dataset.category_ids
        self.add(batch["im_id"], split_outputs(outputs, batch["orig_size"], names, ids, self.threshold))

    def add(self, image_ids: Iterable[int], detections: Iterable[Detections]) -> None:
        """Add the detections of several images.

        Args:
            image_ids: id of each image in the annotation file.
            detections: of each image.
        """
        for image_id, image in zip(image_ids, detections):
            self._image_ids.append(int(image_id))
            predicted = {"bbox": image.boxes is not None, "mask": image.masks is not None}
            for kind, results in zip(("bbox", "mask"), image.to_coco(int(image_id))):
                if predicted[kind]:
                    self._results.setdefault(kind, []).extend(results)

    def state(self) -> tuple[list[int], dict[str, list[dict[str, Any]]]]:
        """Return the image ids and results of this process, to be merged by :meth:`load_state`."""
        return self._image_ids, self._results

    def load_state(self, states: Sequence[tuple[list[int], dict[str, list[dict[str, Any]]]]]) -> None:
        """Replace the predictions with those of several processes; images that occur twice count once."""
        self._image_ids, self._results = [], {}
        seen: set[int] = set()
        for image_ids, results in states:
            new = set(image_ids) - seen
            self._image_ids += [image_id for image_id in image_ids if image_id in new]
            seen |= new
            for kind, rows in results.items():
                self._results.setdefault(kind, []).extend(row for row in rows if row["image_id"] in new)

    def load_results(self, results: Mapping[str, list[dict[str, Any]]]) -> None:
        """Replace the predictions with those written by an earlier evaluation, for all images of the data set.

        Args:
            results: contents of ``bbox.json`` and ``mask.json`` by ``bbox`` and ``mask``. Predictions for images that
                the annotation file lists but the data set omits are ignored.

        Raises:
            UserError: an entry is not in COCO's results format, or does not belong to this data set.
        """
        truth = load_truth(self.dataset.anno_path)
        sizes = {image_id: image_size(image) for image_id, image in truth.images.items()}
        for kind, rows in results.items():
            checked_results(kind, rows, frozenset(self.dataset.category_ids), sizes)
            truth.renumbered(rows, kind)
        self.load_state([([int(image["id"]) for image in self.dataset.images], dict(results))])

    def accumulate(self) -> None:
        """Write the JSON files, if requested, and compute the average precision."""
        folder = self.output_eval or ("" if self.measures else ".")
        if folder:
            for kind, rows in self._results.items():
                path = os.path.join(folder, f"{kind}.json")
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps(rows), encoding="utf-8")
                logger.info("wrote %d predictions to %s", len(rows), path)
        if not self.measures:
            why = "save_prediction_only is set" if self.dataset.has_annotations else "there is no ground truth"
            logger.info("%s: no average precision for %s", why, self.dataset.anno_path)
            return
        coco_class, eval_class = _evaluator()
        truth = load_truth(self.dataset.anno_path)
        index = coco_index(coco_class, truth.dataset)
        for kind, rows in self._results.items():
            if kind == "mask" and not truth.measures_masks():
                logger.warning("%s contains no valid segmentations, so masks are not measured", self.dataset.anno_path)
                continue
            self._measure(kind, truth.renumbered(rows, kind), truth, index, eval_class)

    def _measure(self, kind: str, rows: list[dict[str, Any]], truth: Truth, index: Any, eval_class: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if rows:
                predictions = index.loadRes(rows)
            else:
                predictions = coco_index(type(index), {**truth.dataset, "annotations": []})
            evaluation = eval_class(index, predictions, _KINDS[kind])
            evaluation.params.imgIds = sorted(truth.image_numbers[image_id] for image_id in self._image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self._numbers[kind] = [float(value) for value in evaluation.stats[:12]]
        if self.classwise:
            self._tables[kind] = self._table(np.asarray(evaluation.eval["precision"]))

    def _table(self, precision: np.ndarray) -> str:
        """Format AP, AP50, AP75 of each class; precision is [IoU, recall, class, area, detections], -1 if undefined."""
        names = [one_line(name, 40) for name in self.dataset.class_names]
        width = max(map(len, [*names, "class"]))
        lines = [f"{'class':<{width}}     AP   AP50   AP75"]
        for place, name in enumerate(names):
            cells = []
            for part in (precision[:, :, place, 0, -1], precision[0, :, place, 0, -1], precision[5, :, place, 0, -1]):
                known = part[part > -1]
                cells.append(f"{known.mean():6.3f}" if known.size else "     -")
            lines.append(f"{name:<{width}} {' '.join(cells)}")
        return "\n".join(lines)

    def log(self) -> None:
        """Log COCO's summary for boxes and for masks, and the tables of the classes."""
        for kind in self._numbers:
            title = f"{_TITLES[kind]} (COCO's {_KINDS[kind]})"
            logger.info("%s\n%s", title, twelve_lines(self._numbers[kind]))
            if kind in self._tables:
                logger.info("%s of each class\n%s", _TITLES[kind], self._tables[kind])

    def table(self, kind: str) -> str:
        """Return the table of the classes; empty without ``classwise`` or before :meth:`accumulate`."""
        return self._tables.get(kind, "")

    def get_results(self) -> dict[str, list[float]]:
        """Return COCO's twelve numbers by ``bbox`` and ``mask``; empty without ground truth."""
        return dict(self._numbers)
