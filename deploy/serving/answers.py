"""Parameters of prediction requests, and the responses: JSON or an annotated image."""

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

__all__ = ["PARAMETERS", "ResponseOptions", "draw_png", "to_instances"]

_ECHOED = 60
"""Maximum number of characters of an invalid value in an error message."""

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "threshold": {"type": "number", "minimum": 0, "maximum": 1, "description": "minimum score"},
    "masks": {"type": "string", "enum": ["polygon", "rle", "none"], "default": "polygon"},
    "format": {"type": "string", "enum": ["json", "png"], "default": "json"},
}
"""Query parameters of a prediction in OpenAPI format."""


@dataclass(frozen=True)
class ResponseOptions:
    """Content and format of a response.

    Attributes:
        threshold: minimum score.
        masks: ``polygon``, ``rle`` or ``none``.
        png: return an annotated image instead of JSON.
    """

    threshold: float
    masks: str = "polygon"
    png: bool = False

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]], path: str, accept: str, threshold: float) -> ResponseOptions:
        """Parse a request.

        Args:
            pairs: names and values of the query parameters.
            path: path of the URL; ``/predict.png`` requests an image.
            accept: the Accept header; it requests an image if it contains image/png but not JSON.
            threshold: default threshold.

        Raises:
            Refusal: 422 for an unknown parameter or an invalid value.
        """
        values: dict[str, str] = {}
        for name, value in pairs:
            if name not in PARAMETERS:
                raise Refusal(
                    422, f"the parameter '{one_line(name, _ECHOED)}' is unknown; expected {', '.join(PARAMETERS)}"
                )
            if name in values:
                raise Refusal(422, f"the parameter {name} is given twice; specify it once")
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
                raise Refusal(422, "/predict.png only returns PNG images; use /predict for JSON")
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


def to_instances(detections: Detections, masks: str) -> list[dict[str, Any]]:
    """Convert detections to JSON values, sorted by descending score; boxes that are not finite are omitted.

    Args:
        detections: detections of an image.
        masks: ``polygon``, ``rle`` or ``none``.

    Returns:
        ``class``, ``class_id`` (of the data set), ``score``, ``box`` [x1, y1, x2, y2] in pixels and, if the model has
        masks and they are requested, ``polygons`` or ``rle``, see :class:`~deploy.common.detections.Detections`.
    """
    instances = []
    for index in np.flatnonzero(np.isfinite(detections.rows).all(axis=1)).tolist():
        label = int(detections.labels[index])
        instance: dict[str, Any] = {
            "class": detections.class_names[label],
            "class_id": detections.category_ids[label],
            "score": round(float(detections.scores[index]), 5),
            "box": [round(float(value), 2) for value in detections.bounding_boxes[index]],
        }
        if detections.masks is not None and detections.masks.scores is not None:
            instance["mask_score"] = round(float(detections.masks.scores[index]), 5)
        if detections.masks is not None and masks == "polygon":
            instance["polygons"] = detections.polygons(index)
        elif detections.masks is not None and masks == "rle":
            instance["rle"] = detections.rle(index)
        instances.append(instance)
    return instances


def draw_png(detections: Detections, image: np.ndarray) -> bytes:
    """Draw detections into their image, uint8 [h, w, 3] RGB, and return a PNG file."""
    success, data = cv2.imencode(".png", cv2.cvtColor(detections.draw(image), cv2.COLOR_RGB2BGR))
    if not success:
        raise RuntimeError("OpenCV cannot encode a PNG image")
    return data.tobytes()
