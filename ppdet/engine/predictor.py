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

from ppdet.data.image_io import read_image
from ppdet.engine.data import Loader
from ppdet.engine.env import gather_objects, is_main
from ppdet.engine.evaluator import predict_batch, to_host
from ppdet.engine.train_step import Precision
from ppdet.metrics.coco_results import box_results, mask_results, split_images
from ppdet.utils.atomic import atomic_path, atomic_writer, make_dir
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger
from ppdet.utils.visualizer import draw_detections

__all__ = ["PredictOptions", "find_images", "output_names", "predict_images"]

logger = setup_logger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Pictures of other formats are written as PNG."""


@dataclass(frozen=True)
class PredictOptions:
    """What to write.

    Attributes:
        output_dir: folder of pictures and JSON files.
        draw_threshold: lowest score that is drawn.
        save_threshold: lowest score in the JSON files.
        save_results: write ``bbox.json`` and ``mask.json``.
        visualize: write pictures.
        mask_threshold: probability from which a pixel belongs to a mask.
    """

    output_dir: str = "output"
    draw_threshold: float = 0.5
    save_threshold: float = 0.5
    save_results: bool = False
    visualize: bool = True
    mask_threshold: float = 0.5


def find_images(image: str | None, folder: str | None, listing: str | None) -> list[str]:
    """Return the image files that a command line names.

    Args:
        image: one file (or, as PaddleDetection allows, a folder).
        folder: all images in it, by name; the files of ``listing`` are relative to it.
        listing: text file with one path a line.

    Raises:
        UserError: nothing named, something missing, or no image in there.
    """
    if image:
        if Path(image).is_dir():
            return find_images(None, image, None)
        if not Path(image).is_file():
            raise UserError(f"the image {image} does not exist")
        return [image]
    if listing:
        try:
            lines = Path(listing).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the list of images {listing}: {error}") from error
        paths = [str(Path(folder or "") / line.strip()) for line in lines if line.strip()]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise UserError(f"{listing} names {missing[0]}, which does not exist ({len(missing)} of {len(paths)})")
        if not paths:
            raise UserError(f"{listing} names no image")
        return paths
    if folder:
        if not Path(folder).is_dir():
            raise UserError(f"the folder {folder} does not exist")
        found = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"the folder {folder} has no image ({', '.join(SUFFIXES)})")
        return found
    raise UserError("no images given: add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE")


def output_names(paths: Sequence[str]) -> list[str]:
    """Return a file name for each picture: the image's own, numbered where two images share it."""
    names: list[str] = []
    taken: set[str] = set()
    for path in map(Path, paths):
        suffix = path.suffix if path.suffix.lower() in WRITTEN else ".png"
        name, number = path.stem + suffix, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


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
    model.eval()
    for batch in loader:
        outputs = predict_batch(model, batch, precision)
        facts = to_host({name: batch[name] for name in ("im_id", "orig_size")})
        for index, size, (rows, masks) in zip(facts["im_id"], facts["orig_size"], split_images(outputs)):
            path = dataset.paths[int(index)]
            _collect(results, rows, masks, int(index), size, dataset, options)
            if options.visualize:
                _draw(path, folder / names[int(index)], rows, masks, dataset.class_names, options)
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
) -> None:
    """Append one image's detections in COCO's format."""
    kept = rows[:, 1] >= options.save_threshold
    found = {"bbox": box_results(rows[kept], index, dataset.category_ids)}
    if masks is not None:
        found["mask"] = mask_results(rows[kept], masks[kept], index, [int(side) for side in size], dataset.category_ids)
    for kind, items in found.items():
        results.setdefault(kind, []).extend({**item, "file_name": Path(dataset.paths[index]).name} for item in items)


def _draw(
    path: str, target: Path, rows: np.ndarray, masks: np.ndarray | None, names: Sequence[str], options: PredictOptions
) -> None:
    """Write the picture of one image."""
    kept = rows[:, 1] >= options.draw_threshold
    shown = None if masks is None else masks[kept]
    picture = draw_detections(read_image(path), rows[kept], shown, names, threshold=options.mask_threshold)
    with atomic_path(target) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise UserError(f"cannot write the picture {target}")


def _summary(rows: np.ndarray, names: Sequence[str], threshold: float) -> str:
    """Return such as ``3 objects (2 person, 1 dog)``."""
    counts: Mapping[str, int] = Counter(names[int(label)] for label in rows[rows[:, 1] >= threshold, 0])
    total = sum(counts.values())
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{total} object{'' if total == 1 else 's'} from score {threshold:g} on" + (f" ({listed})" if listed else "")
