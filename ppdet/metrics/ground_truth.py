"""What predictions are measured against, made fit for COCO's evaluation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping
from typing import Any

from ppdet.data.source.annotations import image_size, read_annotations
from ppdet.data.transform.functional.masks import is_valid_segmentation, valid_polygons
from ppdet.utils.errors import UserError

__all__ = ["checked_results", "coco_index", "has_outlines", "load_truth"]


def load_truth(path: str) -> dict[str, Any]:
    """Read an annotation file and complete what COCO's evaluation takes for granted.

    COCO's code marks a match by the annotation's id, 0 meaning none: an object of id 0, or two of the same id, are lost
    without a word. Ids are therefore given anew, from 1 on in the order of the file. A missing ``area`` is that of
    the box, a missing ``iscrowd`` 0, and an outline that cannot be rasterised an empty one.

    Raises:
        UserError: the file is missing, broken or not in COCO format.
    """
    content = read_annotations(path)
    sizes = {image["id"]: image_size(image) for image in content["images"]}
    annotations = []
    for number, annotation in enumerate(content.get("annotations") or [], start=1):
        size = sizes[annotation["image_id"]]
        annotations.append(_completed(annotation, number, size))
    return {"images": content["images"], "categories": content["categories"], "annotations": annotations}


def _completed(annotation: Mapping[str, Any], number: int, size: tuple[int, int]) -> dict[str, Any]:
    """A copy of an annotation under a new id, with all that the evaluation reads."""
    complete = dict(annotation)
    complete["id"] = number
    complete.setdefault("area", float(annotation["bbox"][2]) * float(annotation["bbox"][3]))
    complete["iscrowd"] = int(bool(annotation.get("iscrowd", 0)))
    outline = annotation.get("segmentation")
    if not is_valid_segmentation(outline):
        complete["segmentation"] = {"size": list(size), "counts": [size[0] * size[1]]}
    elif isinstance(outline, list):
        complete["segmentation"] = valid_polygons(outline)
    return complete


def has_outlines(path: str, truth: Mapping[str, Any]) -> bool:
    """Whether masks can be measured: some object has an outline, or there is no object at all.

    Raises:
        UserError: they could, but an image with objects does not state its size.
    """
    annotations = truth["annotations"]
    outlined = {a["image_id"] for a in annotations if not _is_empty(a["segmentation"])}
    for image in truth["images"]:
        if image["id"] in outlined and min(image_size(image)) < 1:
            raise UserError(f"image {image['id']} ({image['file_name']}) in {path} has no width and height")
    return bool(outlined) or not annotations


def _is_empty(segmentation: Any) -> bool:
    """Whether `_completed` put an empty outline there."""
    counts = segmentation["counts"] if isinstance(segmentation, dict) else None
    return isinstance(counts, list) and len(counts) == 1


def _is_encoded(segmentation: Any) -> bool:
    """Whether this looks like a compressed RLE; decoding half a million of them to be sure would take a minute."""
    if not (isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str) and segmentation["counts"]):
        return False
    size = segmentation.get("size")
    return isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)


def coco_index(coco_class: Any, dataset: Mapping[str, Any]) -> Any:
    """COCO's object of a dataset that is in memory; its progress is not printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = coco_class()
        index.dataset = dict(dataset)
        index.createIndex()
    return index


def checked_results(kind: str, rows: Any, category_ids: Collection[int]) -> None:
    """Check results that were read from a file.

    Args:
        kind: ``bbox`` or ``mask``, which the file is named after.
        rows: list of COCO results.
        category_ids: of the data set.

    Raises:
        UserError: a result lacks something, or is of a category that the data set does not have.
    """
    for place, row in enumerate(rows):
        where = f"result {place} of {kind}.json"
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), int):
            raise UserError(f"{where} has no image_id (integer): it is not in COCO's result format")
        category = row.get("category_id")
        if not isinstance(category, int) or category not in category_ids:
            raise UserError(f"{where} has category_id {category!r}, which the annotation file does not list")
        if not isinstance(row.get("score"), (int, float)):
            raise UserError(f"{where} has no score")
        if kind == "mask":
            if not _is_encoded(row.get("segmentation")):
                raise UserError(f"{where} has no segmentation in COCO's run-length encoding")
            continue
        box = row.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)):
            raise UserError(f"{where} has no bbox [x, y, width, height]")
