"""What a run writes: pictures, COCO results, masks, polygons."""

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
class _Wishes:
    """What to write, see the command line."""

    results: bool
    masks: bool
    polygons: bool


class Output:
    """Collects and writes the detections of a run.

    Args:
        folder: is made; pictures go into it, masks and polygons into folders of it.
        has_masks: the model predicts masks.
        save_results: write ``bbox.json`` and ``mask.json`` at the end, whichever the model predicts.
        save_masks: write ``masks/NAME_000.png`` for each object, 0 and 255.
        save_polygons: write ``polygons/NAME.json`` for each image.
        has_boxes: the model predicts boxes.

    Raises:
        UserError: masks or polygons of a model that has none, or a folder that cannot be made.
    """

    def __init__(
        self,
        folder: str | Path,
        has_masks: bool,
        save_results: bool = False,
        save_masks: bool = False,
        save_polygons: bool = False,
        has_boxes: bool = True,
    ) -> None:
        if not has_masks and (save_masks or save_polygons):
            raise UserError("the model has no masks: leave --save_masks and --save_polygons out")
        self.folder = make_dir(folder)
        self._wishes = _Wishes(save_results, save_masks, save_polygons)
        kinds = {"bbox": has_boxes, "mask": has_masks}
        self._results: dict[str, list[dict[str, Any]]] = {kind: [] for kind, predicted in kinds.items() if predicted}

    def add(self, found: Detections, image_id: int, file_name: str, stem: str) -> None:
        """Write or keep the detections of one image.

        Args:
            found: what was found.
            image_id: of the results: place in the list of images, or number of the frame.
            file_name: of the results.
            stem: name of the files made of it, without extension; no two images share it.
        """
        if self._wishes.results:
            for kind, rows in zip(("bbox", "mask"), found.to_coco(image_id)):
                if kind in self._results:
                    self._results[kind].extend({**row, "file_name": file_name} for row in rows)
        if self._wishes.masks:
            for index in range(len(found)):
                bitmap = np.ascontiguousarray(found.bitmap(index)) * np.uint8(255)
                write_picture(self.folder / "masks" / f"{stem}_{index:03d}.png", bitmap)
        if self._wishes.polygons:
            with atomic_writer(self.folder / "polygons" / f"{stem}.json", "w") as stream:
                stream.write(_json(_polygons(found, image_id, file_name)))

    @property
    def results(self) -> dict[str, list[dict[str, Any]]]:
        """What `finish` will write, by ``bbox`` and ``mask``; to be put together where several processes predict."""
        return self._results

    def take(self, shares: Sequence[dict[str, list[dict[str, Any]]]]) -> None:
        """Replace the results by those of several processes, in the order of the images."""
        for kind in self._results:
            rows = [row for share in shares for row in share[kind]]
            self._results[kind] = sorted(rows, key=lambda row: row["image_id"])  # stable: best first within an image

    def finish(self) -> list[str]:
        """Write ``bbox.json`` and ``mask.json``, if wanted; return a line about each."""
        if not self._wishes.results:
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
        raise UserError(f"cannot write the picture {path}: its format has a limit of size")
    with atomic_writer(path) as stream:  # not OpenCV's own writing, which takes no file name that is not UTF-8
        stream.write(data.tobytes())


def _json(value: Any) -> str:
    """JSON with letters of all languages; escaped where a file name has bytes that are no letters."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def summary(found: Detections) -> str:
    """Such as ``3 objects: 2 person, 1 dog``."""
    counts = Counter(found.class_names[label] for label in found.labels.tolist())
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{len(found)} object{'' if len(found) == 1 else 's'}" + (f": {listed}" if listed else "")


def _polygons(found: Detections, image_id: int, file_name: str) -> dict[str, Any]:
    """One image as a mapping ready for JSON."""
    objects = []
    mask_scores = None if found.masks is None else found.masks.scores
    for index, (label, box) in enumerate(zip(found.labels.tolist(), found.bounding_boxes.astype(float).tolist())):
        x1, y1, x2, y2 = box
        objects.append(
            {
                "category_id": found.category_ids[label],
                "category": found.class_names[label],
                "score": float(found.scores[index]),
                **({} if mask_scores is None else {"mask_score": float(mask_scores[index])}),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "polygons": found.polygons(index),
            }
        )
    height, width = found.size
    return {"image_id": image_id, "file_name": file_name, "height": height, "width": width, "objects": objects}
