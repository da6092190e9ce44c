"""What a client may ask for, and the answers: JSON, or the drawn picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from deploy.common.detections import Detections
from deploy.common.printable import one_line
from deploy.serving.uploads import Refusal

__all__ = ["PARAMETERS", "Wanted", "draw_png", "to_instances"]

_ECHOED = 60
"""Characters of a wrong value that the answer repeats."""

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "threshold": {"type": "number", "minimum": 0, "maximum": 1, "description": "lowest score"},
    "masks": {"type": "string", "enum": ["polygon", "rle", "none"], "default": "polygon"},
    "format": {"type": "string", "enum": ["json", "png"], "default": "json"},
}
"""Of a prediction's address, as OpenAPI describes them."""


@dataclass(frozen=True)
class Wanted:
    """What a client asks for.

    Attributes:
        threshold: lowest score.
        masks: ``polygon``, ``rle`` or ``none``.
        png: the drawn picture instead of JSON.
    """

    threshold: float
    masks: str = "polygon"
    png: bool = False

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]], path: str, accept: str, threshold: float) -> Wanted:
        """Read a request.

        Args:
            pairs: the query's names and values.
            path: of the address; ``/predict.png`` asks for the picture.
            accept: the header; it asks for the picture if it names image/png and not JSON.
            threshold: where the query has none.

        Raises:
            Refusal: 422 for an unknown name or value.
        """
        values: dict[str, str] = {}
        for name, value in pairs:
            if name not in PARAMETERS:
                raise Refusal(
                    422, f"the parameter '{one_line(name, _ECHOED)}' is not known, only {', '.join(PARAMETERS)}"
                )
            if name in values:
                raise Refusal(422, f"the parameter {name} is given twice")
            choices = PARAMETERS[name].get("enum")
            if choices and value not in choices:
                raise Refusal(
                    422, f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, not '{one_line(value, _ECHOED)}'"
                )
            values[name] = value
        types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        png = path.endswith(".png") or ("image/png" in types and "application/json" not in types)
        if "format" in values:
            if path.endswith(".png") and values["format"] != "png":
                raise Refusal(422, "/predict.png gives PNG; ask /predict for JSON")
            png = values["format"] == "png"
        if "threshold" in values:
            threshold = _score(values["threshold"])
        return cls(threshold, values.get("masks", "polygon"), png)


def _score(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refusal(422, f"threshold must be a number from 0 to 1, not '{one_line(text, _ECHOED)}'")
    return value


def to_instances(found: Detections, masks: str) -> list[dict[str, Any]]:
    """Describe detections for JSON, best first; boxes that are not finite are left out.

    Args:
        found: of one image.
        masks: ``polygon``, ``rle`` or ``none``.

    Returns:
        ``class``, ``class_id`` (of the data set), ``score``, ``box`` [x1, y1, x2, y2] in pixels and, if the model has
        masks and they are wanted, ``polygons`` or ``rle``, see :class:`~deploy.common.detections.Detections`.
    """
    instances = []
    for index in np.flatnonzero(np.isfinite(found.rows).all(axis=1)).tolist():
        label = int(found.labels[index])
        instance: dict[str, Any] = {
            "class": found.class_names[label],
            "class_id": found.category_ids[label],
            "score": round(float(found.scores[index]), 5),
            "box": [round(float(value), 2) for value in found.bounding_boxes[index]],
        }
        if found.masks is not None and found.masks.scores is not None:
            instance["mask_score"] = round(float(found.masks.scores[index]), 5)
        if found.masks is not None and masks == "polygon":
            instance["polygons"] = found.polygons(index)
        elif found.masks is not None and masks == "rle":
            instance["rle"] = found.rle(index)
        instances.append(instance)
    return instances


def draw_png(found: Detections, image: np.ndarray) -> bytes:
    """Draw detections on their image, uint8 [h, w, 3] RGB, as a PNG file."""
    done, data = cv2.imencode(".png", cv2.cvtColor(found.draw(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV cannot write PNG")
    return data.tobytes()
