"""Output of a run: visualizations, COCO results, masks and polygons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.common.atomic import atomic_writer, make_dir
from deploy.common.detections import Detections
from deploy.common.errors import UserError

__all__ = ["Output", "summary", "write_picture"]


@dataclass(frozen=True)
class _Formats:
    """The formats to write."""

    results: bool
    masks: bool
    polygons: bool


class Output:
    """Collects and writes the detections of a run.

    Args:
        folder: output folder, which is created; masks and polygons are written to sub-folders.
        has_masks: whether the model predicts masks.
        save_results: write ``bbox.json`` and ``mask.json`` at the end, depending on what the model predicts.
        save_masks: write ``masks/NAME_000.png`` with values 0 and 255 for each object.
        save_polygons: write ``polygons/NAME.json`` for each image.
        has_boxes: whether the model predicts boxes.

    Raises:
        UserError: masks or polygons are requested from a model without masks, or the folder cannot be created.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        has_masks: bool,
        save_results: bool = False,
        save_masks: bool = False,
        save_polygons: bool = False,
        has_boxes: bool = True,
    ) -> None:
        if not has_masks and (save_masks or save_polygons):
            raise UserError("the model has no masks; remove --save_masks and --save_polygons")
        self.folder = make_dir(folder)
        self._formats = _Formats(save_results, save_masks, save_polygons)
        kinds = {"bbox": has_boxes, "mask": has_masks}
        self._results: dict[str, list[dict[str, Any]]] = {kind: [] for kind, predicted in kinds.items() if predicted}

    def add(self, detections: Detections, image_id: int, file_name: str, stem: str) -> None:
        """Write or collect the detections of an image.

        Args:
            detections: detections of the image.
            image_id: image id of the results: the index of the image or the number of the frame.
            file_name: file name in the results.
            stem: name of the output files without extension; it must be unique.
        """
        if self._formats.results:
            for kind, rows in zip(("bbox", "mask"), detections.to_coco(image_id)):
                if kind in self._results:
                    self._results[kind].extend({**row, "file_name": file_name} for row in rows)
        if self._formats.masks:
            for index in range(len(detections)):
                bitmap = np.ascontiguousarray(detections.bitmap(index)) * np.uint8(255)
                write_picture(self.folder / "masks" / f"{stem}_{index:03d}.png", bitmap)
        if self._formats.polygons:
            with atomic_writer(self.folder / "polygons" / f"{stem}.json", "w") as stream:
                stream.write(_json(_polygons(detections, image_id, file_name)))

    @property
    def results(self) -> dict[str, list[dict[str, Any]]]:
        """Results to be written by `finish`, by ``bbox`` and ``mask``; to be merged if there are several processes."""
        return self._results

    def take(self, shares: Sequence[dict[str, list[dict[str, Any]]]]) -> None:
        """Replace the results with those of several processes, sorted by image."""
        for kind in self._results:
            rows = [row for share in shares for row in share[kind]]
            self._results[kind] = sorted(
                rows, key=lambda row: row["image_id"]
            )  # stable, so the order within an image is kept

    def finish(self) -> list[str]:
        """Write ``bbox.json`` and ``mask.json`` if requested, and return a message about each."""
        if not self._formats.results:
            return []
        lines = []
        for kind, rows in self._results.items():
            path = self.folder / f"{kind}.json"
            with atomic_writer(path, "w") as stream:
                json.dump(rows, stream)
            lines.append(f"wrote {len(rows)} results to {path}")
        return lines


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write an image file, uint8 [h, w] or [h, w, 3] RGB.

    Raises:
        UserError: it cannot be written.
    """
    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(path.suffix, pixels)
    except cv2.error as error:
        raise UserError(f"cannot write the picture {path}: {error.err or error}") from error
    if not done:
        raise UserError(f"cannot write the picture {path}; it may be too large for its format")
    with atomic_writer(path) as stream:  # OpenCV cannot write files whose names are not valid UTF-8
        stream.write(data.tobytes())


def _json(value: Any) -> str:
    """Convert to JSON with Unicode letters; they are escaped if a file name is not valid Unicode."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def summary(detections: Detections) -> str:
    """Summarise detections, for example ``3 objects: 2 person, 1 dog``."""
    counts = Counter(detections.class_names[label] for label in detections.labels.tolist())
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{len(detections)} object{'' if len(detections) == 1 else 's'}" + (f": {listed}" if listed else "")


def _polygons(detections: Detections, image_id: int, file_name: str) -> dict[str, Any]:
    """Convert the detections of an image to a dictionary for JSON."""
    objects = []
    mask_scores = None if detections.masks is None else detections.masks.scores
    boxes = detections.bounding_boxes.astype(float).tolist()
    for index, (label, (x1, y1, x2, y2)) in enumerate(zip(detections.labels.tolist(), boxes)):
        objects.append(
            {
                "category_id": detections.category_ids[label],
                "category": detections.class_names[label],
                "score": float(detections.scores[index]),
                **({} if mask_scores is None else {"mask_score": float(mask_scores[index])}),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "polygons": detections.polygons(index),
            }
        )
    height, width = detections.size
    return {"image_id": image_id, "file_name": file_name, "height": height, "width": width, "objects": objects}
