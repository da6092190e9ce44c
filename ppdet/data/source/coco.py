"""COCO instance annotations."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppdet.core.workspace import register, serializable
from ppdet.data.source.semantic import semantic_source
from ppdet.data.transform.functional.masks import is_valid_segmentation
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["COCODataSet", "read_annotations"]

logger = setup_logger(__name__)

_FIELDS = ("image", "im_id", "gt_bbox", "gt_class", "gt_poly", "is_crowd", "difficult", "gt_score", "semantic")


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO annotation file.

    Raises:
        UserError: a missing or broken file, or one without the lists ``images`` and ``categories``.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"the annotation file {path} does not exist: check dataset_dir and anno_path") from error
    except (OSError, ValueError) as error:
        raise UserError(f"the annotation file {path} cannot be read: {error}") from error
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"the annotation file {path} has no list '{key}': it is not in COCO format")
    for image in content["images"]:
        if not isinstance(image, dict) or not {"id", "file_name"} <= set(image):
            raise UserError(f"the annotation file {path} has an image without id or file_name: {str(image)[:80]}")
    for category in content["categories"]:
        if not isinstance(category, dict) or not {"id", "name"} <= set(category):
            raise UserError(f"the annotation file {path} has a category without id or name: {str(category)[:80]}")
    return content


@register
@serializable
class COCODataSet:
    """Images with boxes, classes, masks and, if wanted, semantic maps.

    Classes are 0..K-1 in the order of the category ids. In training, boxes narrower or flatter than a pixel, without
    area or outside of the image are dropped, and so are images whose shorter side is under 32 pixels or that have no
    annotation at all (a crowd counts as one). Crowds and objects without a valid outline do not train.

    Args:
        dataset_dir: folder that the other paths are relative to.
        image_dir: folder of the images.
        anno_path: annotation file.
        data_fields: what to load; masks only with ``gt_poly``.
        sample_num: take only the first images, -1 for all.
        load_crowd: hand crowd objects to the model as if they were objects.
        allow_empty: keep images without annotation in training.
        empty_ratio: share of such images among those kept, at most; 1 for no limit.
        semantic: where semantic maps come from, see :func:`~ppdet.data.source.semantic.semantic_source`.
        num_classes: K.
        semantic_num_classes: classes of the semantic branch.

    Raises:
        UserError: whatever is wrong with the annotation file, naming it.
    """

    __shared__ = ["num_classes", "semantic_num_classes"]

    def __init__(
        self,
        dataset_dir: str = "",
        image_dir: str = "",
        anno_path: str = "",
        data_fields: Sequence[str] = ("image",),
        sample_num: int = -1,
        load_crowd: bool = False,
        allow_empty: bool = False,
        empty_ratio: float = 1.0,
        semantic: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        semantic_num_classes: int | None = None,
    ) -> None:
        unknown = sorted(set(data_fields) - set(_FIELDS))
        if unknown:
            raise UserError(f"data_fields names {', '.join(unknown)}; known are {', '.join(_FIELDS)}")
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.anno_path = os.path.join(dataset_dir, anno_path)
        self.with_masks = "gt_poly" in data_fields
        self.training = "gt_bbox" in data_fields
        self.load_crowd = load_crowd
        content = read_annotations(self.anno_path)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.category_ids = [int(category["id"]) for category in categories]
        self.class_names = [str(category["name"]) for category in categories]
        if num_classes is not None and num_classes != len(categories):
            raise UserError(
                f"{self.anno_path} has {len(categories)} categories, but num_classes is {num_classes}: set num_classes"
            )
        self.has_annotations = "annotations" in content
        self.images: list[dict[str, Any]] = list(content["images"])
        self._objects = self._group(content.get("annotations") or [])
        if self.training:
            self.images = self._trainable(allow_empty, empty_ratio)
        if sample_num > 0:
            self.images = self.images[:sample_num]
        if self.training and not self.images:
            raise UserError(f"{self.anno_path} leaves no image to train on")
        self._check_folder()
        names = [image["file_name"] for image in self.images]
        self.semantic = semantic_source(semantic, dataset_dir, self.category_ids, semantic_num_classes, names)

    def _group(self, annotations: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
        """Annotations of each image, checked against the images and categories."""
        images = {image["id"] for image in self.images}
        categories = set(self.category_ids)
        grouped: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in annotations:
            where = f"annotation {annotation.get('id', '?')} in {self.anno_path}"
            if annotation.get("image_id") not in images:
                raise UserError(f"{where} belongs to image {annotation.get('image_id')}, which the file does not list")
            if annotation.get("category_id") not in categories:
                raise UserError(f"{where} has category {annotation.get('category_id')}, which the file does not list")
            box = annotation.get("bbox")
            if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)):
                raise UserError(f"{where} has the bbox {box}, expected [x, y, width, height]")
            if not np.isfinite(box).all():
                raise UserError(f"{where} has the bbox {box}, which is not finite")
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def _trainable(self, allow_empty: bool, empty_ratio: float) -> list[dict[str, Any]]:
        """Images that training uses; a line in the log says how much was left out."""
        small = [i for i in self.images if min(i.get("width") or 32, i.get("height") or 32) < 32]
        gone = {image["id"] for image in small}
        left = [image for image in self.images if image["id"] not in gone]
        full = [image for image in left if self._objects.get(image["id"])]
        empty = [image for image in left if not self._objects.get(image["id"])]
        if allow_empty and empty_ratio < 1:
            most = int(len(full) * empty_ratio / (1 - empty_ratio))
            empty = empty[:most]
        kept = {image["id"] for image in full} | ({image["id"] for image in empty} if allow_empty else set())
        dropped: Counter[str] = Counter()
        for image in left:
            for annotation in self._objects.get(image["id"], ()):
                dropped[self._flaw(annotation, image) or "kept"] += 1
        count = sum(number for flaw, number in dropped.items() if flaw != "kept")
        if small or count or len(kept) < len(left):
            reasons = ", ".join(f"{number} {flaw}" for flaw, number in sorted(dropped.items()) if flaw != "kept")
            logger.info(
                "%s: left out %d images under 32 pixels, %d without annotation, %d objects%s",
                self.anno_path,
                len(small),
                len(left) - len(kept),
                count,
                f" ({reasons})" if reasons else "",
            )
        return [image for image in left if image["id"] in kept]

    @staticmethod
    def _flaw(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
        """Why an object does not train at all, or None."""
        x, y, w, h = annotation["bbox"]
        inside_w = max(0, min(x + w, image.get("width") or np.inf) - max(x, 0))
        inside_h = max(0, min(y + h, image.get("height") or np.inf) - max(y, 0))
        if inside_w * inside_h == 0:
            return "outside of the image"
        if annotation.get("area", 1) <= 0:
            return "without area"
        return "under one pixel" if w < 1 or h < 1 else None

    def _check_folder(self) -> None:
        if not os.path.isdir(self.image_dir):
            raise UserError(f"the image folder {self.image_dir} does not exist: check dataset_dir and image_dir")
        present = set(os.listdir(self.image_dir))
        names = [image["file_name"] for image in self.images if os.sep not in image["file_name"]]
        missing = [name for name in names if name not in present]
        if missing:
            raise UserError(
                f"the image {os.path.join(self.image_dir, missing[0])} named in {self.anno_path} is missing "
                f"({len(missing)} of {len(names)} are)"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def is_landscape(self, index: int) -> bool:
        """Whether an image is wider than high (batches are formed among images of the same kind)."""
        image = self.images[index]
        return bool((image.get("width") or 1) > (image.get("height") or 1))

    def __getitem__(self, index: int) -> Sample:
        """The index-th image with its objects, not yet decoded."""
        image = self.images[index]
        sample = Sample(
            image_path=os.path.join(self.image_dir, image["file_name"]),
            image_id=int(image["id"]),
            orig_size=(int(image.get("height") or 0), int(image.get("width") or 0)),
            keep_masks=self.with_masks,
            semantic_source=self.semantic,
        )
        if self.training:
            self._fill(sample, image)
        return sample

    def _fill(self, sample: Sample, image: Mapping[str, Any]) -> None:
        """Objects that train, and crowds, which only a semantic map made of the masks looks at."""
        outlines = self.with_masks or (self.semantic is not None and self.semantic.needs_masks)
        chosen = []
        for annotation in self._objects.get(image["id"], ()):
            if self._flaw(annotation, image) is None:
                if not outlines or is_valid_segmentation(annotation.get("segmentation")):
                    chosen.append(annotation)
        if not chosen:
            sample.segmentations = [] if outlines else None
            return
        index = {category: place for place, category in enumerate(self.category_ids)}
        boxes = np.array([annotation["bbox"] for annotation in chosen], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        sample.boxes = boxes
        sample.labels = np.array([index[annotation["category_id"]] for annotation in chosen], np.int64)
        crowd = [0 if self.load_crowd else int(bool(annotation.get("iscrowd", 0))) for annotation in chosen]
        sample.is_crowd = np.array(crowd, np.uint8)
        sample.segmentations = [annotation["segmentation"] for annotation in chosen] if outlines else None
