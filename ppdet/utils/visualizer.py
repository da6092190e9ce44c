"""Pictures of detections: coloured masks with outlines, boxes, class names and scores (NumPy and OpenCV)."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from ppdet.utils.paste import paste_mask

__all__ = ["draw_detections", "instance_colour"]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618033988749895


def instance_colour(index: int) -> tuple[int, int, int]:
    """RGB colour of the index-th instance; neighbours in the sequence lie far apart on the colour circle."""
    hue = (0.03 + index * _GOLDEN) % 1.0
    saturation = (0.85, 0.65, 1.0)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_detections(
    image: np.ndarray,
    rows: np.ndarray,
    masks: np.ndarray | None,
    class_names: Sequence[str],
    alpha: float = 0.45,
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw detections on a copy of an image.

    Args:
        image: uint8 [h, w, 3] RGB.
        rows: [n, 6] (label, score, x1, y1, x2, y2 in pixels of the image), best first.
        masks: [n, s, s] probabilities in the boxes' frames, or None.
        class_names: names of the labels.
        alpha: weight of a mask's colour.
        threshold: a pixel belongs to a mask from this probability on.

    Returns:
        uint8 [h, w, 3] RGB. The best detections are drawn last, on top; labels stay inside of the picture.
    """
    canvas = image.copy()
    height, width = canvas.shape[:2]
    thickness = max(1, round(min(height, width) / 400))
    order = range(len(rows) - 1, -1, -1)
    if masks is not None:
        for index in order:
            bitmap = paste_mask(masks[index], rows[index, 2:], height, width, threshold)
            _tint(canvas, np.ascontiguousarray(bitmap), instance_colour(index), alpha, thickness)
    for index in order:
        x1, y1, x2, y2 = (int(round(float(v))) for v in np.clip(rows[index, 2:], -1e6, 1e6))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), instance_colour(index), thickness, cv2.LINE_AA)
    taken: list[tuple[int, int, int, int]] = []
    for index in range(len(rows)):
        label = int(rows[index, 0])
        name = class_names[label] if label < len(class_names) else str(label)
        text = f"{_printable(name)} {rows[index, 1]:.2f}"
        _label(canvas, text, rows[index, 2:], instance_colour(index), taken)
    return canvas


def _tint(canvas: np.ndarray, bitmap: np.ndarray, colour: tuple[int, int, int], alpha: float, thickness: int) -> None:
    """Colour the pixels of a bitmap, in place, and outline it."""
    inside = bitmap > 0
    if not inside.any():
        return
    mixed = canvas[inside].astype(np.float32) * (1 - alpha) + np.array(colour, np.float32) * alpha
    canvas[inside] = mixed.round().astype(np.uint8)
    outlines, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, thickness, cv2.LINE_AA)


def _printable(text: str) -> str:
    """OpenCV's fonts have ASCII only."""
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


def _label(
    canvas: np.ndarray,
    text: str,
    box: np.ndarray,
    colour: tuple[int, int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Write a text on a plate at the box's upper left corner, inside of the picture and off earlier plates."""
    height, width = canvas.shape[:2]
    scale = float(np.clip(min(height, width) / 1000, 0.32, 1.2))
    stroke = max(1, round(scale * 1.6))
    (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, stroke)
    plate_width, plate_height = text_width + 4, text_height + base + 2
    x = int(np.clip(box[0], 0, max(0, width - plate_width)))
    top = float(box[1]) - plate_height if box[1] >= plate_height else float(box[1])
    y = int(np.clip(top, 0, max(0, height - plate_height)))
    for _ in range(8):
        clash = [t for t in taken if x < t[2] and t[0] < x + plate_width and y < t[3] and t[1] < y + plate_height]
        if not clash or clash[0][3] + plate_height > height:
            break
        y = clash[0][3]
    taken.append((x, y, x + plate_width, y + plate_height))
    cv2.rectangle(canvas, (x, y), (x + plate_width, y + plate_height), colour, -1)
    dark = colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 128
    ink = (0, 0, 0) if dark else (255, 255, 255)
    cv2.putText(canvas, text, (x + 2, y + text_height + 1), _FONT, scale, ink, stroke, cv2.LINE_AA)
