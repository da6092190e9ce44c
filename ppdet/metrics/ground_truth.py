"""Ground truth for COCO's evaluation, and validation of result files."""

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
    """Ground truth with new ids.

    COCO's code marks a match with the id of the annotation and an unmatched detection with 0. Objects with id 0, and
    objects that share an id, would be lost silently. In addition, the faster implementation converts ids to floating
    point, which is not exact above 2**53. Therefore, annotations, images and categories are renumbered from 1:
    annotations in the order of the file, images and categories in the order of their ids, which COCO's code uses, too.

    Attributes:
        path: path of the annotation file.
        dataset: its content with default values filled in and with the new ids.
        originals: the original annotations, in the same order.
        images: entry of each image by its original id.
        image_numbers: new id of each image by its original id.
        category_numbers: new id of each category by its original id.
    """

    path: str
    dataset: dict[str, Any]
    originals: Sequence[Mapping[str, Any]]
    images: Mapping[int, Mapping[str, Any]]
    image_numbers: Mapping[int, int]
    category_numbers: Mapping[int, int]

    def renumbered(self, rows: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
        """Return copies of results with the new ids of images and categories.

        Raises:
            UserError: a result belongs to an image that the annotation file does not list.
        """
        renumbered = []
        # COCO's code computes the areas of masks from their boxes if there are any; then every result must have one.
        boxes = kind == "bbox" or all("bbox" in row for row in rows)
        for place, row in enumerate(rows):
            if row["image_id"] not in self.image_numbers:
                raise UserError(
                    f"result {place} of {kind}.json belongs to image {row['image_id']}, which {self.path} does "
                    "not list: the results belong to another data set"
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
        """Return whether masks can be measured: an object has a valid segmentation, or there is no object at all.

        Raises:
            UserError: an image with objects has no size in the file, or a run-length encoding has another size.
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
                    "cannot be measured without: add them to the entry"
                )
            stated = stated_size(outline)
            if stated not in (None, size):
                raise UserError(wrong_runs(annotation, image, stated or (0, 0), self.path))
        self._complain(outlines, valid)
        return True

    def _complain(self, outlines: Sequence[Any], valid: Sequence[bool]) -> None:
        """Warn about segmentations that cannot be rasterised."""
        wrong = [place for place, outline in enumerate(outlines) if outline and not valid[place]]
        if wrong:
            annotation = self.originals[wrong[0]]
            logger.warning(
                "%s: %d of %d objects have no valid segmentation, so their masks count as missed, such as "
                "annotation %s of %s (segmentation %s)",
                *(self.path, len(wrong), len(outlines), show(annotation.get("id", "?"))),
                *(self.images[annotation["image_id"]]["file_name"], show(annotation["segmentation"])),
            )


def load_truth(path: str) -> Truth:
    """Read an annotation file and fill in the values that COCO's evaluation requires.

    A missing ``area`` is set to that of the box, a missing ``iscrowd`` to 0, and a segmentation that cannot be
    rasterised to an empty one. ``ignore`` has no effect, as in pycocotools.

    Raises:
        UserError: the file is missing, broken, or not in COCO format.
    """
    content = read_annotations(path)
    group_annotations(content, path)
    images = {image["id"]: image for image in content["images"]}
    image_numbers = {image_id: place for place, image_id in enumerate(sorted(images), start=1)}
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
    sizes = {image_id: image_size(images[image_id]) for image_id in images}
    dataset = {
        "images": [{"id": n, "height": sizes[old][0], "width": sizes[old][1]} for old, n in image_numbers.items()],
        "categories": [{"id": category_numbers[c["id"]], "name": c["name"]} for c in categories],
        "annotations": annotations,
    }
    return Truth(path, dataset, originals, images, image_numbers, category_numbers)


def _completed(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of an annotation that the evaluation reads, without the ids."""
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
    """Create a COCO object from a data set in memory, without printing its progress."""
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
    """Validate results that were read from a file.

    Args:
        kind: ``bbox`` or ``mask``, the name of the file.
        rows: list of COCO results.
        category_ids: category ids of the data set.
        sizes: (h, w) of the images by id, (0, 0) if unknown.

    Raises:
        UserError: a value of a result is missing or invalid, its category is unknown, or its mask has another size than
            the image.
    """
    for place, row in enumerate(rows):
        where = f"result {place} of {kind}.json"
        if not isinstance(row, dict) or not is_id(row.get("image_id")):
            raise UserError(f"{where} has no image_id (an integer): it is not in COCO's results format")
        category = row.get("category_id")
        if not is_id(category) or category not in category_ids:
            raise UserError(f"{where} has category_id {show(category)}, which the annotation file does not list")
        if not is_number(row.get("score")):
            raise UserError(f"{where} has the score {show(row.get('score'))}, expected a number")
        box = row.get("bbox")
        if kind == "bbox" or "bbox" in row:
            if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
                raise UserError(f"{where} has the bbox {show(box)}, expected [x, y, width, height]")
        if kind == "mask":
            _check_runs(row.get("segmentation"), sizes.get(row["image_id"], (0, 0)), where)


def _check_runs(segmentation: Any, size: tuple[int, int], where: str) -> None:
    stated = stated_size(segmentation)
    compressed = stated is not None and isinstance(segmentation.get("counts"), str)
    if not compressed or not is_valid_segmentation(segmentation):
        raise UserError(
            f"{where} has the segmentation {show(segmentation)}, expected COCO's compressed run-length encoding"
        )
    if min(size) > 0 and stated != size:
        raise UserError(f"{where} has a segmentation of {list(stated or ())} (h, w), but its image is {list(size)}")
