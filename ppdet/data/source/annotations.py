"""COCO annotation files: reading, and everything that can be wrong with one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ppdet.data.transform.functional.masks import is_valid_segmentation
from ppdet.utils.errors import UserError

__all__ = ["checked_sizes", "flaw", "group_annotations", "image_size", "read_annotations"]


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO annotation file and check its images and categories.

    Raises:
        UserError: a missing or broken file, no lists ``images`` and ``categories``, an entry without what it needs.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"the annotation file {path} does not exist: check dataset_dir and anno_path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the annotation file {path} cannot be read: {error}") from error
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"the annotation file {path} has no list '{key}': it is not in COCO format")
    if not isinstance(content.get("annotations") or [], list):
        raise UserError(f"the annotation file {path} has 'annotations' that are no list: it is not in COCO format")
    for key, what, text in (("images", "an image", "file_name"), ("categories", "a category", "name")):
        seen: set[int] = set()
        for entry in content[key]:
            fits = isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get(text), str)
            if not fits:
                raise UserError(
                    f"the annotation file {path} has {what} without id (integer) or {text}: {_short(entry)}"
                )
            if entry["id"] in seen:
                raise UserError(f"the annotation file {path} lists {what} of id {entry['id']} twice")
            seen.add(entry["id"])
    if not content["categories"]:
        raise UserError(f"the annotation file {path} has no categories")
    return content


def group_annotations(content: Mapping[str, Any], path: str) -> dict[int, list[Mapping[str, Any]]]:
    """Return the annotations of each image id, checked against the images and categories of the file.

    Args:
        content: what ``read_annotations`` returned.
        path: the file, for messages.

    Raises:
        UserError: an annotation without a box, or of an image or a category which the file does not list.
    """
    grouped: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for annotation in content.get("annotations") or []:
        if not isinstance(annotation, dict):
            raise UserError(f"the annotation file {path} has an annotation that is no mapping: {_short(annotation)}")
        where = f"annotation {annotation.get('id', '?')} in {path}"
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not _is_id(image_id) or image_id not in grouped:
            raise UserError(f"{where} belongs to image {_short(image_id)}, which the file does not list")
        if not _is_id(category_id) or category_id not in categories:
            raise UserError(f"{where} has category {_short(category_id)}, which the file does not list")
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
            raise UserError(f"{where} has the bbox {_short(box)}, expected [x, y, width, height]")
        if not _is_number(annotation.get("area", 0)):
            raise UserError(f"{where} has the area {_short(annotation['area'])}, expected a number")
        grouped[image_id].append(annotation)
    return grouped


def image_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Return (h, w) of an image entry; (0, 0) where it does not tell."""
    height, width = image.get("height"), image.get("width")
    if not (_is_number(height) and _is_number(width)):
        return 0, 0
    return max(0, int(height)), max(0, int(width))  # type: ignore[arg-type]


def flaw(annotation: Mapping[str, Any], size: tuple[int, int], outlined: bool) -> str | None:
    """Return why an object does not train (the official rules), or None.

    Args:
        annotation: with ``bbox``; ``area`` is taken for positive where it is missing.
        size: (h, w) of the image.
        outlined: objects need a valid segmentation too.
    """
    x, y, width, height = annotation["bbox"]
    inside_width = max(0.0, min(x + width, size[1]) - max(x, 0))
    inside_height = max(0.0, min(y + height, size[0]) - max(y, 0))
    if width < 1 or height < 1:
        return "under one pixel"
    if annotation.get("area", 1) <= 0:
        return "without area"
    if inside_width * inside_height == 0:
        return "outside of the image"
    if outlined and not is_valid_segmentation(annotation.get("segmentation")):
        return "without a valid outline"
    return None


def checked_sizes(images: Sequence[Mapping[str, Any]], path: str) -> None:
    """Check that all images state their size, which training needs to know beforehand.

    Raises:
        UserError: one does not.
    """
    for image in images:
        if min(image_size(image)) < 1:
            raise UserError(f"image {image['id']} ({image['file_name']}) in {path} has no width and height")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
