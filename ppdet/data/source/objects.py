"""Which objects of an annotation file train, and whether they look as if the file meant something else."""

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
    CROWD: "iscrowd is 1 for groups, 0 for single objects (load_crowd: true takes groups for objects)",
    _IGNORED: "ignore is 1 for objects that do not train",
    _TINY: "a bbox is [x, y, width, height] in pixels, not in parts of the image",
    _NO_AREA: "area is the number of an object's pixels; leave it out if it is not known",
    _OUTSIDE: "a bbox is [x, y, width, height] in pixels of the image",
    _NO_OUTLINE: "a segmentation is a list of polygons [[x1, y1, x2, y2, x3, y3, ...]] or run lengths that fill the "
    "image; a model without masks does not need gt_poly in data_fields",
}

MANY_DROPPED = 0.1
"""Share of objects or images that do not train, from which on there is a warning."""

_ODD = 0.005
"""Share of odd boxes up to which nobody is bothered: COCO itself has a few."""

_SLACK_PIXELS, _SLACK_SHARE = 2.0, 0.05
"""A box may reach this many pixels, or this share of the image's side, beyond the image."""

_COMPARED = 5000
"""Boxes that are compared with their outlines, evenly spread over the file."""

_SHOWN = 3
"""Examples in a message."""


def flaw(annotation: Mapping[str, Any], size: tuple[int, int], outlined: bool) -> str | None:
    """Return why an object does not train (the official rules), or None.

    Args:
        annotation: with ``bbox``; ``area`` is taken for positive where it is missing.
        size: (h, w) of the image.
        outlined: objects need a valid segmentation too.
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
    """Whether something of a box is in the image along one axis, in the precision in which boxes train."""
    low = np.float32(start)
    return bool(low < side and low + np.float32(length) > 0)


class Audit:
    """Counts what becomes of the objects of an annotation file, and notes which of them look wrong.

    Args:
        path: the annotation file, for messages.
        objects: how many there will be.

    Attributes:
        counts: objects by what became of them: ``CROWD``, a reason of :func:`flaw`, or "" for those that train.
    """

    def __init__(self, path: str, objects: int) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._stride = max(1, objects // _COMPARED)
        self._seen = self._compared = 0
        self._beyond = self._apart = self._corners = self._fractions = 0

    def add(self, annotation: Mapping[str, Any], image: Mapping[str, Any], fate: str = "") -> None:
        """Take an object in.

        Args:
            annotation: checked by ``group_annotations``.
            image: entry of its image.
            fate: what becomes of it, see ``counts``.
        """
        self.counts[fate] += 1
        if fate:
            self._note(fate, annotation, image)
        size = image_size(image)
        if fate in ("", CROWD) and size[0]:
            if _reaches_beyond(annotation["bbox"], size):
                self._beyond += 1
                self._note("beyond", annotation, image)
            if self._seen % self._stride == 0 and fate != CROWD:
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
        """Check that objects are left to train on, and warn where a large share is not.

        Raises:
            UserError: none is left; the message gives every reason with an example.
        """
        dropped = {group: number for group, number in self.counts.items() if group}
        if not self.counts[""]:
            groups = [
                f"{number} {group}, such as {self._examples[group][0]}" for group, number in _by_number(dropped)[:3]
            ]
            remedy = _REMEDIES[_by_number(dropped)[0][0]] if dropped else "there are no annotations"
            raise UserError(f"{self.path} leaves no object to train on: {'; '.join(groups)}: {remedy}")
        lost = {group: number for group, number in dropped.items() if group not in (CROWD, _IGNORED)}
        if sum(lost.values()) > MANY_DROPPED * self._seen:
            for group, number in _by_number(lost):
                logger.warning(
                    "%s: %d of %d objects are %s and do not train (%s): %s",
                    *(self.path, number, self._seen, group, _REMEDIES[group]),
                    "; ".join(self._examples[group]),
                )

    def warn(self) -> None:
        """Warn of boxes that reach beyond their images, or that are not where their outlines are."""
        if self._beyond > _ODD * self._seen:
            logger.warning(
                "%s: the boxes of %d of %d objects reach beyond their images; a bbox is [x, y, width, height] in "
                "pixels: %s",
                *(self.path, self._beyond, self._seen, "; ".join(self._examples["beyond"])),
            )
        if self._apart > _ODD * self._compared:
            hint = "a bbox is [x, y, width, height] in pixels"
            if self._corners > self._apart / 2:
                hint = "they look like [x1, y1, x2, y2], COCO's are [x, y, width, height]"
            elif self._fractions > self._apart / 2:
                hint = "the outlines look like parts of the image (0 to 1), COCO's are in pixels"
            logger.warning(
                "%s: %d of %d boxes that were compared are not where their outlines are; %s: %s",
                *(self.path, self._apart, self._compared, hint, "; ".join(self._examples["apart"])),
            )


def _by_number(groups: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(groups.items(), key=lambda item: (-item[1], item[0]))


def _reaches_beyond(box: Sequence[float], size: tuple[int, int]) -> bool:
    x, y, width, height = box
    slack_x, slack_y = (max(_SLACK_PIXELS, _SLACK_SHARE * side) for side in (size[1], size[0]))
    return x < -slack_x or y < -slack_y or x + width > size[1] + slack_x or y + height > size[0] + slack_y


def _outline_box(segmentation: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Corners x1, y1, x2, y2 of what a segmentation outlines; None where there is nothing valid, or nothing at all."""
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
    """Intersection over union of two boxes x1, y1, x2, y2, each a pixel larger on every side than it says: what rounds
    a small box does not count.
    """
    width = min(a[2], b[2]) - max(a[0], b[0]) + 2
    height = min(a[3], b[3]) - max(a[1], b[1]) + 2
    areas = [max(0.0, box[2] - box[0] + 2) * max(0.0, box[3] - box[1] + 2) for box in (a, b)]
    both = max(0.0, width) * max(0.0, height)
    return both / max(sum(areas) - both, 1e-9)


def _span(corners: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = corners
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
