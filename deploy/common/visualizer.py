"""Pictures of detections: coloured masks with outlines, boxes, class names and scores (NumPy and OpenCV).

Large objects are drawn first, small ones on top, and a pixel takes the colour of the topmost object alone: overlapping
tints would mix to colours that belong to no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from deploy.common import lettering
from deploy.common.instance_masks import InstanceMasks
from deploy.common.label_layout import place_label

__all__ = ["draw_detections", "instance_colour"]

Colour = tuple[int, int, int]

_SHARE = 0.6
"""Of the picture's width: a longer label is cut, so that a very long name does not cover the picture."""
_LONGEST_LINE = 350
"""Pixels at scale 1 that a label may have even if that is more; about twenty letters."""
_FEWEST = 4
"""Letters of a name that must be left for the score to be written, too."""

_PALETTE: tuple[Colour, ...] = (
    (255, 70, 60),
    (40, 140, 255),
    (255, 205, 20),
    (190, 85, 235),
    (60, 205, 90),
    (255, 60, 160),
    (20, 210, 215),
    (255, 140, 20),
    (110, 100, 255),
    (175, 225, 40),
    (120, 190, 255),
    (190, 130, 85),
)
"""RGB; neighbours differ clearly, lightened and darkened too, and none is dark enough to vanish in a shadow."""


def instance_colour(index: int) -> Colour:
    """RGB colour of the index-th instance: twelve hues, then the same lighter, then darker, and again."""
    colour = np.array(_PALETTE[index % len(_PALETTE)], np.float32)
    turn = index // len(_PALETTE) % 3
    if turn == 1:
        colour += (255 - colour) * 0.45
    elif turn == 2:
        colour *= 0.68
    red, green, blue = (int(value) for value in colour.round())
    return red, green, blue


def draw_detections(
    image: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    masks: InstanceMasks | None,
    class_names: Sequence[str],
    alpha: float = 0.4,
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw detections on a copy of an image.

    Args:
        image: uint8 [h, w, 3] RGB.
        labels: int [n], indices into ``class_names``, best detection first.
        scores: [n], written on the labels.
        boxes: [n, 4] (x1, y1, x2, y2) in pixels of the image. Detections whose box or score is not finite are left out,
            boxes beyond the image are clipped.
        masks: n masks, or None.
        class_names: names of the labels.
        alpha: opacity of the masks.
        threshold: a pixel belongs to a mask if its probability is at least this value.

    Returns:
        uint8 [h, w, 3] RGB. All labels lie within the picture; those of the best detections are placed first.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    shown = np.flatnonzero(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    limits = np.array([width, height, width, height], np.float64)
    clipped = np.clip(boxes[shown].astype(np.float64), 0, limits)
    area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    large_first = np.argsort(-area, kind="stable").tolist()
    thickness = max(1, round(float(np.sqrt(height * width)) / 500))
    if masks is not None:
        _draw_masks(canvas, masks[shown], large_first, alpha, threshold, thickness)
    for place in large_first:
        x1, y1, x2, y2 = clipped[place].round().astype(int).tolist()
        corner = (min(x2, width - 1), min(y2, height - 1))
        cv2.rectangle(canvas, (min(x1, width - 1), min(y1, height - 1)), corner, instance_colour(place), thickness)
    plates: list[tuple[float, float, float, float]] = []
    for place, index in enumerate(shown.tolist()):
        name = lettering.label_name(class_names, int(labels[index]))
        text = _fitted_text(name, f"{scores[index]:.2f}", height, width)
        x, y = place_label(clipped, place, (text.width, text.height), plates, (height, width))
        plates.append((x, y, x + text.width, y + text.height))
        _write(canvas, text, x, y, instance_colour(place))
    return canvas


def _draw_masks(
    canvas: np.ndarray,
    masks: InstanceMasks,
    order: Sequence[int],
    alpha: float,
    threshold: float,
    thickness: int,
) -> None:
    """Colour the objects' pixels in place and outline them; ``order``: later objects cover earlier ones."""
    height, width = canvas.shape[:2]
    owner = np.full((height, width), -1, np.int32)
    outlines: list[tuple[int, Sequence[np.ndarray]]] = []
    for place in order:
        part, (top, left) = masks.part(place, height, width, threshold)
        if not part.size:
            continue
        owner[top : top + part.shape[0], left : left + part.shape[1]][part] = place
        # One pixel of margin: an outline that touches the part's edge is closed along it.
        framed = np.pad(part.astype(np.uint8), 1)
        contours, _ = cv2.findContours(framed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left - 1, top - 1))
        outlines.append((place, contours))
    inside = owner >= 0
    colours = np.array([instance_colour(place) for place in range(len(masks))], np.float32).reshape(-1, 3)
    mixed = canvas[inside] * np.float32(1 - alpha) + colours[owner[inside]] * np.float32(alpha)
    canvas[inside] = mixed.round().astype(np.uint8)
    for place, contours in outlines:
        cv2.drawContours(canvas, contours, -1, instance_colour(place), thickness, cv2.LINE_AA)


@dataclass(frozen=True)
class _Text:
    """A text in a size of letters, and its plate in pixels.

    Attributes:
        text: what is written.
        scale: size of the letters, in OpenCV's measure.
        width: of the plate.
        height: of the plate.
        ascent: from the plate's top to the foot of the letters.
    """

    text: str
    scale: float
    width: int
    height: int
    ascent: int


def _measured(text: str, scale: float) -> _Text:
    width, ascent, descent = lettering.measure(text, scale)
    margin = _margin(scale)
    return _Text(text, scale, width + 2 * margin, ascent + descent + margin, margin // 2 + ascent)


def _margin(scale: float) -> int:
    return max(2, round(scale * 5))


def _fitted_text(name: str, score: str, height: int, width: int) -> _Text:
    """A label in letters that suit the picture; smaller ones, then less of the name, where it would be too wide."""
    scale = float(np.clip(np.sqrt(height * width) / 1500, 0.36, 3.0))
    limit = min(width, round(max(_SHARE * width, _LONGEST_LINE * scale)))
    # A name that is slightly too long gets smaller letters, a very long one is cut; on small pictures, both.
    smallest = 0.3 if limit < _LONGEST_LINE * scale else 0.75 * scale
    fitted, full_scale = _measured(f"{name} {score}", scale), scale
    while scale > smallest and (fitted.width > limit or fitted.height > height):
        scale = max(smallest, scale * 0.9)
        fitted = _measured(f"{name} {score}", scale)
    if fitted.width <= limit:
        return fitted
    scale = 0.3 if smallest == 0.3 else full_scale
    for end in (f".. {score}", None, "..", ""):  # without the score where too little of the name would be left
        if end is None:
            if _measured(name, scale).width <= limit:
                return _measured(name, scale)
            continue
        shortest, longest = (_FEWEST if end else 1), len(name) - 1
        if longest < shortest or _measured(name[:shortest].rstrip() + end, scale).width > limit:
            continue
        while shortest < longest:  # binary search for the longest beginning that fits
            middle = (shortest + longest + 1) // 2
            if _measured(name[:middle].rstrip() + end, scale).width <= limit:
                shortest = middle
            else:
                longest = middle - 1
        return _measured(name[:shortest].rstrip() + end, scale)
    return _measured(name[:1], scale)


def _write(canvas: np.ndarray, text: _Text, x: int, y: int, colour: Colour) -> None:
    """Write a text on its plate in black or white, whichever stands out more."""
    cv2.rectangle(canvas, (x, y), (x + text.width - 1, y + text.height - 1), colour, -1)
    linear = (np.array(colour) / 255.0) ** 2.2
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    # Equal contrast ratios (WCAG) with black and white at 0.179.
    ink = (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
    lettering.write(canvas, text.text, x + _margin(text.scale), y + text.ascent, text.scale, ink)
