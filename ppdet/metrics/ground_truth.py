"""What predictions are measured against, made fit for COCO's evaluation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppdet.data.source.annotations import group_annotations, image_size, read_annotations, wrong_runs
from ppdet.data.source.values import is_id, is_number, show
from ppdet.data.transform.functional.masks import is_valid_segmentation, stated_size, valid_polygons
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["Truth", "checked_results", "coco_index", "load_truth"]

logger = setup_logger(__name__)


@dataclass(frozen=True)
class Truth:
    """Ground truth under numbers of its own.

    COCO's code marks a match by the annotation's id, 0 meaning none: an object of id 0, or two of the same id, are lost
    without a word; and its faster implementation computes with ids as floating point numbers, which are not exact
    beyond 2**53. So annotations, images and categories are numbered from 1 on: annotations in the order of the file,
    images and categories in the order of their ids, which COCO's code follows.

    Attributes:
        path: the annotation file.
        dataset: its content, completed, under the new numbers.
        originals: its annotations as they are, in the same order.
        images: entry of each image by its id in the file.
        image_numbers: new number of each image id.
        category_numbers: new number of each category id.
    """

    path: str
    dataset: dict[str, Any]
    originals: Sequence[Mapping[str, Any]]
    images: Mapping[int, Mapping[str, Any]]
    image_numbers: Mapping[int, int]
    category_numbers: Mapping[int, int]

    def renumbered(self, rows: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
        """Return copies of results that name images and categories by the new numbers.

        Raises:
            UserError: a result of an image that the file does not list.
        """
        renumbered = []
        # COCO's code takes the areas of masks from their boxes if there are any, and then all have to have one.
        boxes = kind == "bbox" or all("bbox" in row for row in rows)
        for place, row in enumerate(rows):
            if row["image_id"] not in self.image_numbers:
                raise UserError(
                    f"result {place} of {kind}.json is of image {row['image_id']}, which {self.path} does not list: "
                    "they do not belong together"
                )
            copy = {
                "image_id": self.image_numbers[row["image_id"]],
                "category_id": self.category_numbers[row["category_id"]],
                "score": row["score"],
            }
            if boxes:
                copy["bbox"] = row["bbox"]
            if kind == "mask":
                copy["segmentation"] = row["segmentation"]
            renumbered.append(copy)
        return renumbered

    def measures_masks(self) -> bool:
        """Whether masks can be measured: some object has an outline, or there is no object at all.

        Raises:
            UserError: they could, but an image with objects does not state its size, or run lengths are of another one.
        """
        outlines = [annotation.get("segmentation") for annotation in self.originals]
        sizes = [image_size(self.images[annotation["image_id"]]) for annotation in self.originals]
        valid = [is_valid_segmentation(outline, size) for outline, size in zip(outlines, sizes)]
        if not any(valid):
            self._complain(outlines, valid)
            return not outlines
        for annotation, outline, size in zip(self.originals, outlines, sizes):
            image = self.images[annotation["image_id"]]
            if min(size) < 1:
                raise UserError(
                    f"image {image['id']} ({image['file_name']}) in {self.path} has no width and height, which masks "
                    "cannot be measured without: add them to its entry"
                )
            stated = stated_size(outline)
            if stated not in (None, size):
                raise UserError(wrong_runs(annotation, image, stated or (0, 0), self.path))
        self._complain(outlines, valid)
        return True

    def _complain(self, outlines: Sequence[Any], valid: Sequence[bool]) -> None:
        """Warn of outlines that were meant to be some but cannot be rasterised."""
        wrong = [place for place, outline in enumerate(outlines) if outline and not valid[place]]
        if wrong:
            annotation = self.originals[wrong[0]]
            logger.warning(
                "%s: %d of %d objects have no valid outline and are never found as masks, such as annotation %s of %s "
                "(segmentation %s)",
                *(self.path, len(wrong), len(outlines), show(annotation.get("id", "?"))),
                *(self.images[annotation["image_id"]]["file_name"], show(annotation["segmentation"])),
            )


def load_truth(path: str) -> Truth:
    """Read an annotation file and complete what COCO's evaluation takes for granted.

    A missing ``area`` is that of the box, a missing ``iscrowd`` 0, and an outline that cannot be rasterised an empty
    one. ``ignore`` means nothing here, as in pycocotools.

    Raises:
        UserError: the file is missing, broken or not in COCO format.
    """
    content = read_annotations(path)
    group_annotations(content, path)
    images = {image["id"]: image for image in content["images"]}
    image_numbers = {number: place for place, number in enumerate(sorted(images), start=1)}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    category_numbers = {category["id"]: place for place, category in enumerate(categories, start=1)}
    originals = content.get("annotations") or []
    annotations = []
    for place, annotation in enumerate(originals, start=1):
        numbers = {
            "id": place,
            "image_id": image_numbers[annotation["image_id"]],
            "category_id": category_numbers[annotation["category_id"]],
        }
        annotations.append({**numbers, **_completed(annotation, image_size(images[annotation["image_id"]]))})
    sizes = {number: image_size(images[number]) for number in images}
    dataset = {
        "images": [{"id": n, "height": sizes[old][0], "width": sizes[old][1]} for old, n in image_numbers.items()],
        "categories": [{"id": category_numbers[c["id"]], "name": c["name"]} for c in categories],
        "annotations": annotations,
    }
    return Truth(path, dataset, originals, images, image_numbers, category_numbers)


def _completed(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """What the evaluation reads of an annotation, besides its numbers."""
    box, area, outline = annotation["bbox"], annotation.get("area"), annotation.get("segmentation")
    if not is_valid_segmentation(outline, size):
        outline = {"size": list(size), "counts": [size[0] * size[1]]}
    elif isinstance(outline, list):
        outline = valid_polygons(outline, size)
    return {
        "bbox": box,
        "area": float(box[2]) * float(box[3]) if area is None else area,
        "iscrowd": int(bool(annotation.get("iscrowd"))),
        "segmentation": outline,
    }


def coco_index(coco_class: Any, dataset: Mapping[str, Any]) -> Any:
    """COCO's object of a dataset that is in memory; its progress is not printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = coco_class()
        index.dataset = dict(dataset)
        index.createIndex()
    return index


def checked_results(
    kind: str,
    rows: Sequence[Any],
    category_ids: Collection[int],
    sizes: Mapping[int, tuple[int, int]],
) -> None:
    """Check results that were read from a file.

    Args:
        kind: ``bbox`` or ``mask``, which the file is named after.
        rows: list of COCO results.
        category_ids: of the data set.
        sizes: (h, w) of images by id, (0, 0) where one is not known.

    Raises:
        UserError: a result lacks something, or is of a category that the data set does not have, or of another size
            than its image.
    """
    for place, row in enumerate(rows):
        where = f"result {place} of {kind}.json"
        if not isinstance(row, dict) or not is_id(row.get("image_id")):
            raise UserError(f"{where} has no image_id (integer): it is not in COCO's result format")
        category = row.get("category_id")
        if not is_id(category) or category not in category_ids:
            raise UserError(f"{where} has category_id {show(category)}, which the annotation file does not list")
        if not is_number(row.get("score")):
            raise UserError(f"{where} has no score (a number): it has {show(row.get('score'))}")
        box = row.get("bbox")
        if kind == "bbox" or "bbox" in row:
            if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
                raise UserError(f"{where} has no bbox [x, y, width, height]: it has {show(box)}")
        if kind == "mask":
            _check_runs(row.get("segmentation"), sizes.get(row["image_id"], (0, 0)), where)


def _check_runs(segmentation: Any, size: tuple[int, int], where: str) -> None:
    stated = stated_size(segmentation)
    compressed = stated is not None and isinstance(segmentation.get("counts"), str)
    if not compressed or not is_valid_segmentation(segmentation):
        raise UserError(f"{where} has no segmentation in COCO's compressed run-length encoding: {show(segmentation)}")
    if min(size) > 0 and stated != size:
        raise UserError(f"{where} has a segmentation of {list(stated or ())} (h, w), its image is {list(size)}")
