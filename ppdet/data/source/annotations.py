"""Reading and checking COCO annotation files."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from deploy.common.json_file import read_json
from ppdet.data.source.values import NEVER_PRINTED, file_name_flaw, is_id, is_number, show
from ppdet.utils.errors import UserError

__all__ = ["checked_sizes", "group_annotations", "image_size", "read_annotations", "wrong_runs"]

_MOST_PIXELS, _LONGEST_SIDE = 2**30, 2**20
_LARGEST_AREA = 1e18
_LONGEST_CATEGORY = 1000


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO annotation file and check its images and categories.

    Raises:
        UserError: the file is missing or broken, has no lists ``images`` and ``categories``, or has an entry that lacks
            a required value or whose file name leaves the image folder.
    """
    content = read_json(path, "annotation file", "check dataset_dir and anno_path")
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"the annotation file {path} has no list '{key}': it is not in COCO format")
    if not isinstance(content.get("annotations") or [], list):
        raise UserError(f"the annotation file {path} has 'annotations' that are not a list: it is not in COCO format")
    for key, what, text in (("images", "an image", "file_name"), ("categories", "a category", "name")):
        seen: set[int] = set()
        for entry in content[key]:
            fits = isinstance(entry, dict) and is_id(entry.get("id")) and isinstance(entry.get(text), str)
            if not fits:
                raise UserError(
                    f"the annotation file {path} has {what} without id (an integer of 64 bits) or {text}: {show(entry)}"
                )
            if entry["id"] in seen:
                raise UserError(f"the annotation file {path} lists {what} of id {entry['id']} twice")
            seen.add(entry["id"])
    if not content["categories"]:
        raise UserError(f"the annotation file {path} has no categories")
    for category in content["categories"]:
        if NEVER_PRINTED.search(category["name"]) or len(category["name"]) > _LONGEST_CATEGORY:
            raise UserError(
                f"category {category['id']} in {path} has the name {show(category['name'])}: a name must not have "
                f"control characters or more than {_LONGEST_CATEGORY} characters"
            )
    for image in content["images"]:
        _check_image(image, path)
    return content


def _check_image(image: Mapping[str, Any], path: str) -> None:
    where = f"image {image['id']} in {path}"
    flaw_of_name = file_name_flaw(image["file_name"])
    if flaw_of_name is not None:
        raise UserError(f"{where} has the file_name {show(image['file_name'])}, {flaw_of_name}")
    for side in ("height", "width"):
        value = image.get(side)
        if value is not None and not (is_number(value) and value >= 0 and value == int(value)):
            raise UserError(f"{where} has the {side} {show(value)}, expected a number of pixels")
    height, width = image_size(image)
    if height * width > _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise UserError(f"{where} has {width} x {height} pixels (width x height), more than OpenCV decodes: split it")


def group_annotations(content: Mapping[str, Any], path: str) -> dict[int, list[Mapping[str, Any]]]:
    """Return the annotations of each image id, checked against the images and categories of the file.

    Args:
        content: what ``read_annotations`` returned.
        path: the file, for messages.

    Raises:
        UserError: an annotation has no box, refers to an image or a category that the file does not list, or has a flag
            other than 0 and 1.
    """
    grouped: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for annotation in content.get("annotations") or []:
        problem = _problem(annotation, grouped, categories)
        if problem is not None:
            label = show(annotation.get("id", "?")) if isinstance(annotation, dict) else "?"
            raise UserError(f"annotation {label} in {path} {problem}")
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def _problem(annotation: Any, images: Container[int], categories: Container[int]) -> str | None:
    """Return what is wrong with an annotation, or None."""
    if not isinstance(annotation, dict):
        return f"is not a mapping: {show(annotation)}"
    image_id, category_id, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if not is_id(image_id) or image_id not in images:
        return f"belongs to image {show(image_id)}, which the file does not list"
    if not is_id(category_id) or category_id not in categories:
        return f"has category {show(category_id)}, which the file does not list"
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return f"has the bbox {show(box)}, expected [x, y, width, height] in pixels"
    area = annotation.get("area")
    if area is not None and not is_number(area, _LARGEST_AREA):
        return f"has the area {show(area)}, expected a number of pixels"
    for flag in ("iscrowd", "ignore"):
        value = annotation.get(flag)
        if value is not None and not (isinstance(value, (int, float)) and value in (0, 1)):
            return f"has {flag} {show(value)}, expected 0 or 1"
    return None


def image_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Return (h, w) of an image entry; (0, 0) if it does not state its size."""
    height, width = int(image.get("height") or 0), int(image.get("width") or 0)
    return (height, width) if height and width else (0, 0)


def checked_sizes(images: Sequence[Mapping[str, Any]], path: str) -> None:
    """Check that all images state their size, which training needs before it reads them.

    Raises:
        UserError: an image does not state its size.
    """
    for image in images:
        if min(image_size(image)) < 1:
            raise UserError(
                f"image {image['id']} ({image['file_name']}) in {path} has no width and height: add them to its entry"
            )


def wrong_runs(annotation: Mapping[str, Any], image: Mapping[str, Any], stated: tuple[int, int], path: str) -> str:
    """Return the complaint about run lengths whose size (h, w) is not that of their image."""
    height, width = image_size(image)
    return (
        f"annotation {show(annotation.get('id', '?'))} in {path} has run lengths of {stated[1]} x {stated[0]} pixels "
        f"(width x height), but its image {image['file_name']} has {width} x {height}: encode them for this image"
    )
