"""Keypoints of COCO annotation files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppdet.data.source.values import NEVER_PRINTED, is_number, show
from ppdet.structures.fields import Field, Keypoints, mirrored_keypoints
from ppdet.utils.errors import UserError

__all__ = ["KeypointReader"]


class KeypointReader:
    """Reads ``keypoints``, x, y and visibility of each in one list; objects without it have no labelled keypoint.

    Args:
        categories: of the annotation file. Those with keypoints name them in ``keypoints``, all the same ones.
        path: the annotation file, for messages.

    Attributes:
        names: names of the J keypoints.

    Raises:
        UserError: no category has keypoints, or their names are not usable.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]], path: str) -> None:
        named = [category for category in categories if category.get("keypoints")]
        if not named:
            raise UserError(
                f"no category of {path} has 'keypoints', the list of their names, which 'gt_keypoint' in data_fields "
                "needs: use a file with keypoints (COCO's person_keypoints_*.json), or leave 'gt_keypoint' out"
            )
        for category in named:
            names = category["keypoints"]
            if not (isinstance(names, list) and all(map(_is_name, names)) and len(set(names)) == len(names)):
                raise UserError(
                    f"category {category['id']} in {path} has the keypoints {show(names)}, expected a list of "
                    "different names"
                )
            if names != named[0]["keypoints"]:
                raise UserError(
                    f"categories {named[0]['id']} and {category['id']} in {path} have different keypoints: all objects "
                    "of a dataset must have the same ones; split the file by category"
                )
        self.names: list[str] = list(named[0]["keypoints"])
        self._mirrored = mirrored_keypoints(self.names)

    def flaw(self, annotation: Mapping[str, Any]) -> str | None:
        """See :class:`~ppdet.data.source.field_reader.FieldReader`."""
        values = annotation.get("keypoints")
        if values is None or values == []:
            return None
        length = 3 * len(self.names)
        if not isinstance(values, list) or len(values) != length:
            actual = f"{len(values)} numbers" if isinstance(values, list) else show(values)
            return (
                f"has keypoints of {actual}, expected {length}: x, y and visibility of each of the {len(self.names)} "
                "keypoints that its category names"
            )
        wrong = [value for value in values if not is_number(value)]
        if wrong:
            return f"has {show(wrong[0])} among its keypoints, expected x, y and visibility of each as finite numbers"
        wrong = [value for value in values[2::3] if value not in (0, 1, 2)]
        if wrong:
            return (
                f"has a keypoint of visibility {show(wrong[0])}, expected 0 (not labelled), 1 (labelled but hidden) or "
                "2 (visible)"
            )
        return None

    def read(self, annotations: Sequence[Mapping[str, Any]]) -> Field:
        """Return the :class:`~ppdet.structures.fields.Keypoints` of one image, [G, J, 3]."""
        array = np.zeros((len(annotations), len(self.names), 3), np.float32)
        for row, annotation in zip(array, annotations):
            if annotation.get("keypoints"):
                row[...] = np.reshape(annotation["keypoints"], (-1, 3))
        array[array[..., 2] == 0] = 0
        return Keypoints(array, self._mirrored)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not NEVER_PRINTED.search(value)
