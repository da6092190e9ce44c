"""Predictions on image files: pictures with what was found, and COCO results as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.common.atomic import atomic_path, atomic_writer, make_dir
from deploy.common.coco_results import box_results, mask_results, split_images
from deploy.common.image_files import output_names
from deploy.common.image_io import read_image
from deploy.common.visualizer import draw_detections
from ppdet.engine.data import Loader, mask_threshold
from ppdet.engine.env import gather_objects, is_main
from ppdet.engine.evaluator import predict_batch, to_host
from ppdet.engine.precision import Precision
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["PredictOptions", "predict_images"]

logger = setup_logger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """What to write.

    Attributes:
        output_dir: folder of pictures and JSON files.
        draw_threshold: lowest score that is drawn.
        save_threshold: lowest score in the JSON files.
        save_results: write ``bbox.json`` and ``mask.json``.
        visualize: write pictures.
    """

    output_dir: str = "output"
    draw_threshold: float = 0.5
    save_threshold: float = 0.5
    save_results: bool = False
    visualize: bool = True


def predict_images(
    model: Any, loader: Loader, options: PredictOptions, precision: Precision | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Predict on this rank's images of ``loader`` and write what the options ask for.

    Args:
        model: loaded with weights.
        loader: of an `ImageFolder`: image ids are places in its list.
        options: what to write.
        precision: how to compute; float32 by default.

    Returns:
        COCO results of all ranks by ``bbox`` and ``mask``, from ``save_threshold`` on, each with ``file_name``.

    Raises:
        UserError: an image cannot be read or a file not written.
    """
    dataset = loader.dataset
    folder = make_dir(options.output_dir)
    names = output_names(dataset.paths)
    results: dict[str, list[dict[str, Any]]] = {"bbox": []}
    threshold = mask_threshold(model)
    model.eval()
    for batch in loader:
        outputs = predict_batch(model, batch, precision)
        facts = to_host({name: batch[name] for name in ("im_id", "orig_size")})
        for index, size, (rows, masks) in zip(facts["im_id"], facts["orig_size"], split_images(outputs)):
            path = dataset.paths[int(index)]
            _collect(results, rows, masks, int(index), size, dataset, options, threshold)
            if options.visualize:
                _draw(path, folder / names[int(index)], rows, masks, dataset.class_names, options, threshold)
            logger.info("%s: %s", path, _summary(rows, dataset.class_names, options.draw_threshold))
    shares = gather_objects(results)
    merged = {kind: [row for share in shares for row in share.get(kind, [])] for share in shares for kind in share}
    if options.save_results and is_main():
        for kind, found in merged.items():
            with atomic_writer(folder / f"{kind}.json", "w") as stream:
                json.dump(found, stream)
            logger.info("wrote %d results to %s", len(found), folder / f"{kind}.json")
    if options.visualize:
        logger.info("pictures are in %s", folder)
    return merged


def _collect(
    results: dict[str, list[dict[str, Any]]],
    rows: np.ndarray,
    masks: np.ndarray | None,
    index: int,
    size: np.ndarray,
    dataset: Any,
    options: PredictOptions,
    threshold: float,
) -> None:
    """Append one image's detections in COCO's format; masks from the given probability on."""
    kept = rows[:, 1] >= options.save_threshold
    found = {"bbox": box_results(rows[kept], index, dataset.category_ids)}
    if masks is not None:
        height_width, ids = [int(side) for side in size], dataset.category_ids
        found["mask"] = mask_results(rows[kept], masks[kept], index, height_width, ids, threshold)
    for kind, items in found.items():
        results.setdefault(kind, []).extend({**item, "file_name": Path(dataset.paths[index]).name} for item in items)


def _draw(
    path: str,
    target: Path,
    rows: np.ndarray,
    masks: np.ndarray | None,
    names: Sequence[str],
    options: PredictOptions,
    threshold: float,
) -> None:
    """Write the picture of one image; masks from the given probability on."""
    kept = rows[:, 1] >= options.draw_threshold
    shown = None if masks is None else masks[kept]
    picture = draw_detections(read_image(path), rows[kept], shown, names, threshold=threshold)
    with atomic_path(target) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise UserError(f"cannot write the picture {target}")


def _summary(rows: np.ndarray, names: Sequence[str], threshold: float) -> str:
    """Return such as ``3 objects (2 person, 1 dog)``."""
    counts: Mapping[str, int] = Counter(names[int(label)] for label in rows[rows[:, 1] >= threshold, 0])
    total = sum(counts.values())
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{total} object{'' if total == 1 else 's'} from score {threshold:g} on" + (f" ({listed})" if listed else "")
