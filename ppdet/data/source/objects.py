"""Selection of the objects to train on, and detection of annotations that are probably wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ppdet.data.source.annotations import image_size
from ppdet.data.source.values import show
from ppdet.data.transform.functional.masks import is_valid_segmentation, stated_size, valid_polygons
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["CROWD", "MANY_DROPPED", "Audit", "flaw"]

logger = setup_logger(__name__)

CROWD = "crowd regions"

_IGNORED, _TINY, _NO_AREA = "marked ignore", "under one pixel", "without area"
_OUTSIDE, _NO_OUTLINE = "outside of the image", "without a valid outline"

_REMEDIES = {
    CROWD: "iscrowd is 1 for groups and 0 for single objects (load_crowd: true treats groups as objects)",
    _IGNORED: "ignore is 1 for objects that are not trained on",
    _TINY: "a bbox is [x, y, width, height] in pixels, not in fractions of the image size",
    _NO_AREA: "area is the number of pixels of an object; leave it out if it is not known",
    _OUTSIDE: "a bbox is [x, y, width, height] in pixels of the image",
    _NO_OUTLINE: "a segmentation is a list of polygons [[x1, y1, x2, y2, x3, y3, ...]] or run lengths that fill the "
    "image; a model without masks does not need gt_poly in data_fields",
}

MANY_DROPPED = 0.1
"""There is a warning if more than this share of the objects or images is not trained on."""

_ODD = 0.005
"""There is a warning if more than this share of the boxes looks wrong; COCO itself has a few such boxes."""

_SLACK_PIXELS, _SLACK_SHARE = 2.0, 0.05
"""A box may exceed the image by this many pixels, or by this share of the image's side."""

_COMPARED = 5000
"""Number of boxes that are compared with their outlines, evenly spread over the file."""

_SHOWN = 3
"""Number of examples in a message."""


def flaw(annotation: Mapping[str, Any], size: tuple[int, int], outlined: bool) -> str | None:
    """Return why an object is not trained on (by the official rules), or None if it is.

    Args:
        annotation: with ``bbox``; a missing ``area`` counts as positive.
        size: (h, w) of the image.
        outlined: objects need a valid segmentation, too.
    """
    if annotation.get("ignore"):
        return _IGNORED
    x, y, width, height = annotation["bbox"]
    if width < 1 or height < 1:
        return _TINY
    area = annotation.get("area")
    if area is not None and area <= 0:
        return _NO_AREA
    if not (_inside(x, width, size[1]) and _inside(y, height, size[0])):
        return _OUTSIDE
    if outlined and not is_valid_segmentation(annotation.get("segmentation"), size):
        return _NO_OUTLINE
    return None


def _inside(start: float, length: float, side: int) -> bool:
    """Return whether a box overlaps the image along one axis, in the precision of the training (float32)."""
    low = np.float32(start)
    return bool(low < side and low + np.float32(length) > 0)


class Audit:
    """Counts the objects of an annotation file by their use, and collects those that look wrong.

    Args:
        path: the annotation file, for messages.
        objects: total number of objects.

    Attributes:
        counts: number of objects by use: ``CROWD``, a reason of :func:`flaw`, or "" for those that are trained on.
    """

    def __init__(self, path: str, objects: int) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._stride = max(1, objects // _COMPARED)
        self._seen = self._compared = 0
        self._beyond = self._apart = self._corners = self._fractions = 0

    def add(self, annotation: Mapping[str, Any], image: Mapping[str, Any], use: str = "") -> None:
        """Add an object.

        Args:
            annotation: checked by ``group_annotations``.
            image: entry of its image.
            use: see ``counts``.
        """
        self.counts[use] += 1
        if use:
            self._note(use, annotation, image)
        size = image_size(image)
        if use in ("", CROWD) and size[0]:
            if _reaches_beyond(annotation["bbox"], size):
                self._beyond += 1
                self._note("beyond", annotation, image)
            if self._seen % self._stride == 0 and use != CROWD:
                self._compare(annotation, image, size)
        self._seen += 1

    def _compare(self, annotation: Mapping[str, Any], image: Mapping[str, Any], size: tuple[int, int]) -> None:
        outline = _outline_box(annotation.get("segmentation"), size)
        if outline is None:
            return
        self._compared += 1
        x, y, width, height = annotation["bbox"]
        if _overlap((x, y, x + width, y + height), outline) >= 0.5:
            return
        self._apart += 1
        self._corners += _overlap((x, y, width, height), outline) >= 0.5
        self._fractions += max(outline) <= 1.5
        self._note("apart", annotation, image, f", its outline spans x, y, width, height {_span(outline)}")

    def _note(self, group: str, annotation: Mapping[str, Any], image: Mapping[str, Any], more: str = "") -> None:
        examples = self._examples.setdefault(group, [])
        if len(examples) < _SHOWN:
            name = show(image["file_name"]).strip("'\"")
            box = show(annotation["bbox"])
            examples.append(f"annotation {show(annotation.get('id', '?'))} of {name} (bbox {box}{more})")

    def check_trainable(self) -> None:
        """Check that there are objects to train on, and warn if a large share is not.

        Raises:
            UserError: there are none; the message gives the reasons with an example of each.
        """
        dropped = {group: count for group, count in self.counts.items() if group}
        if not self.counts[""]:
            groups = [f"{count} {group}, such as {self._examples[group][0]}" for group, count in _by_count(dropped)[:3]]
            remedy = _REMEDIES[_by_count(dropped)[0][0]] if dropped else "there are no annotations"
            raise UserError(f"{self.path} leaves no object to train on: {'; '.join(groups)}: {remedy}")
        lost = {group: count for group, count in dropped.items() if group not in (CROWD, _IGNORED)}
        if sum(lost.values()) > MANY_DROPPED * self._seen:
            for group, count in _by_count(lost):
                logger.warning(
                    "%s: %d of %d objects are %s and are not trained on (%s): %s",
                    *(self.path, count, self._seen, group, _REMEDIES[group]),
                    "; ".join(self._examples[group]),
                )

    def warn(self) -> None:
        """Warn about boxes that exceed their images, or that do not match their outlines."""
        if self._beyond > _ODD * self._seen:
            logger.warning(
                "%s: the boxes of %d of %d objects exceed their images; a bbox is [x, y, width, height] in pixels: %s",
                *(self.path, self._beyond, self._seen, "; ".join(self._examples["beyond"])),
            )
        if self._apart > _ODD * self._compared:
            hint = "a bbox is [x, y, width, height] in pixels"
            if self._corners > self._apart / 2:
                hint = "they look like [x1, y1, x2, y2], but COCO's are [x, y, width, height]"
            elif self._fractions > self._apart / 2:
                hint = "the outlines look like fractions of the image size (0 to 1), but COCO's are in pixels"
            logger.warning(
                "%s: %d of %d boxes that were compared do not match their outlines; %s: %s",
                *(self.path, self._apart, self._compared, hint, "; ".join(self._examples["apart"])),
            )


def _by_count(groups: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(groups.items(), key=lambda item: (-item[1], item[0]))


def _reaches_beyond(box: Sequence[float], size: tuple[int, int]) -> bool:
    x, y, width, height = box
    slack_x, slack_y = (max(_SLACK_PIXELS, _SLACK_SHARE * side) for side in (size[1], size[0]))
    return x < -slack_x or y < -slack_y or x + width > size[1] + slack_x or y + height > size[0] + slack_y


def _outline_box(segmentation: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Return the box x1, y1, x2, y2 of a segmentation; None if it is invalid or empty."""
    if isinstance(segmentation, list):
        polygons = valid_polygons(segmentation, size)
        if not polygons:
            return None
        xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    if stated_size(segmentation) != size or not is_valid_segmentation(segmentation, size):
        return None
    runs = coco_mask.frPyObjects(segmentation, *size) if isinstance(segmentation["counts"], list) else segmentation
    x, y, width, height = coco_mask.toBbox(runs).tolist()
    return (x, y, x + width, y + height) if width and height else None


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two boxes x1, y1, x2, y2, each enlarged by a pixel on every side so that
    rounding does not matter for small boxes.
    """
    width = min(a[2], b[2]) - max(a[0], b[0]) + 2
    height = min(a[3], b[3]) - max(a[1], b[1]) + 2
    areas = [max(0.0, box[2] - box[0] + 2) * max(0.0, box[3] - box[1] + 2) for box in (a, b)]
    both = max(0.0, width) * max(0.0, height)
    return both / max(sum(areas) - both, 1e-9)


def _span(corners: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = corners
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
