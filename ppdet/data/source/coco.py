"""The COCO dataset."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from ppdet.core.config.ranges import All, ClassCount, Fraction, OneOf, PositiveInt, SemanticClassCount
from ppdet.core.workspace import register, serializable
from ppdet.data.source.annotations import (
    checked_sizes,
    group_annotations,
    image_size,
    read_annotations,
    wrong_runs,
)
from ppdet.data.source.field_reader import FieldReader, check_fields
from ppdet.data.source.keypoints import KeypointReader
from ppdet.data.source.objects import CROWD, MANY_DROPPED, Audit, flaw
from ppdet.data.source.records import PackedRecords
from ppdet.data.source.semantic import SemanticSettings, semantic_source
from ppdet.data.transform.functional.masks import stated_size
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["COCODataSet"]

logger = setup_logger(__name__)

_FIELDS = (
    *("image", "im_id", "gt_bbox", "gt_class", "gt_poly", "gt_keypoint"),
    *("is_crowd", "difficult", "gt_score", "semantic"),
)

_SHORTEST_SIDE = 32
"""Images with a shorter side are not trained on (official rule)."""


@register
@serializable
class COCODataSet:
    """Images with boxes, classes, and optionally masks, keypoints and semantic maps.

    Classes are 0..K-1 in the order of the category ids. In training, boxes with a side under one pixel, without
    area or outside of the image are dropped, as are images whose shorter side is under 32 pixels or that have no
    annotation at all (a crowd counts as one). Crowds, objects marked ``ignore`` and objects without a valid outline are
    not trained on. If nothing is left, or a large part is dropped or looks wrong, the error or the log gives examples.

    Args:
        dataset_dir: folder that the other paths are relative to.
        image_dir: folder of the images.
        anno_path: annotation file.
        data_fields: fields to load; masks need ``gt_poly`` and keypoints ``gt_keypoint``.
        sample_num: number of images to use, the first ones of the file; -1 for all.
        load_crowd: treat crowd regions as objects.
        allow_empty: keep images without annotations in training.
        empty_ratio: largest share of such images among those kept; 1 for no limit.
        semantic: source of the semantic maps, see :func:`~ppdet.data.source.semantic.semantic_source`.
        num_classes: number of classes, K.
        semantic_num_classes: number of classes of the semantic branch.

    Attributes:
        has_annotations: the file has a list of annotations; a file of images alone is enough for prediction.
        object_count: length of that list; None without a list.
        training_fields: names of the ground truth that samples have: ``boxes``, ``masks``, ``semantic``,
            and the keys of :meth:`field_readers` such as ``gt_keypoint``; compared with what a model learns from.

    Raises:
        UserError: the annotation file has an error; the message names it.
    """

    __shared__ = ["num_classes", "semantic_num_classes"]

    def __init__(
        self,
        *,
        dataset_dir: str = "",
        image_dir: str = "",
        anno_path: str = "",
        data_fields: Sequence[Annotated[str, OneOf(*_FIELDS)]] = ("image",),
        sample_num: All | PositiveInt = -1,
        load_crowd: bool = False,
        allow_empty: bool = False,
        empty_ratio: Fraction = 1.0,
        semantic: SemanticSettings | None = None,
        num_classes: ClassCount | None = None,
        semantic_num_classes: SemanticClassCount | None = None,
    ) -> None:
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.anno_path = os.path.join(dataset_dir, anno_path)
        self.with_masks = "gt_poly" in data_fields
        self.training = "gt_bbox" in data_fields
        self.with_keypoints = "gt_keypoint" in data_fields
        self.load_crowd = load_crowd
        content = read_annotations(self.anno_path)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.category_ids = [int(category["id"]) for category in categories]
        self.class_names = [str(category["name"]) for category in categories]
        if num_classes is not None and num_classes != len(categories):
            raise UserError(
                f"{self.anno_path} has {len(categories)} categories, but num_classes is {num_classes}: "
                f"set num_classes to {len(categories)}, or use the annotation file that belongs to the configuration"
            )
        self.has_annotations = "annotations" in content
        grouped = group_annotations(content, self.anno_path)
        self.object_count = sum(map(len, grouped.values())) if self.has_annotations else None
        self.images: list[dict[str, Any]] = list(content["images"])
        if self.training:
            if not any(grouped.values()):
                raise UserError(f"{self.anno_path} has no annotations: there is nothing to train on")
            self.images = self._trainable(grouped, allow_empty, empty_ratio)
        if sample_num > 0:
            self.images = self.images[:sample_num]
        if not self.images:
            raise UserError(
                f"{self.anno_path} leaves no image to train on: all images have a side under {_SHORTEST_SIDE} pixels "
                "or no annotation"
                if self.training
                else f"{self.anno_path} lists no images"
            )
        self._check_folder()
        names = [image["file_name"] for image in self.images]
        self.semantic_num_classes = semantic_num_classes
        self.semantic = semantic_source(
            semantic, dataset_dir, self.category_ids, semantic_num_classes, names, self.image_dir
        )
        self._outlined = self.with_masks or (self.semantic is not None and self.semantic.needs_masks)
        self._records: PackedRecords | None = None
        self.training_fields: frozenset[str] = frozenset()
        self._read_objects(content, grouped)

    def _read_objects(self, content: Mapping[str, Any], grouped: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Check the objects, and pack those that train."""
        audit = Audit(self.anno_path, self.object_count or 0)
        if self.training:
            readers = self.field_readers(content)
            check_fields(readers, grouped, self.anno_path)
            known = {"boxes": True, "masks": self.with_masks, "semantic": self.semantic is not None}
            self.training_fields = frozenset(name for name, supplied in known.items() if supplied) | readers.keys()
            self._records = self._pack(grouped, audit, readers)
            self._log_objects(audit)
            audit.check_trainable()
        else:
            for image in self.images:
                for annotation in grouped[image["id"]]:
                    audit.add(annotation, image, CROWD if annotation.get("iscrowd") else "")
        audit.warn()

    def _trainable(
        self, grouped: Mapping[int, Sequence[Any]], allow_empty: bool, empty_ratio: float
    ) -> list[dict[str, Any]]:
        """Return the images that training uses; a line of the log counts the others."""
        checked_sizes(self.images, self.anno_path)
        large = [image for image in self.images if min(image_size(image)) >= _SHORTEST_SIDE]
        full = [image for image in large if grouped[image["id"]]]
        kept = {image["id"] for image in full}
        if allow_empty:
            empty = [image["id"] for image in large if not grouped[image["id"]]]
            kept.update(empty if empty_ratio >= 1 else empty[: int(len(full) * empty_ratio / (1 - empty_ratio))])
        small = [image for image in self.images if min(image_size(image)) < _SHORTEST_SIDE]
        logger.log(
            logging.WARNING if len(small) > MANY_DROPPED * len(self.images) else logging.INFO,
            "%s: %d images to train on; left out: %d with a side under %d pixels, %d without annotation%s",
            *(self.anno_path, len(kept), len(small), _SHORTEST_SIDE, len(large) - len(kept)),
            f" (too small: {small[0]['file_name']})" if small else "",
        )
        return [image for image in large if image["id"] in kept]

    def field_readers(self, content: Mapping[str, Any]) -> dict[str, FieldReader]:
        """Return what reads further ground truth of the objects, by its key in the batch (``gt_…``).

        A dataset with annotations of its own extends what this method returns. (An input of the model is added to
        ``Sample.extra`` in ``__getitem__`` instead: it exists at prediction time, too.)

        Args:
            content: the annotation file, whose images and categories are checked.
        """
        return {"gt_keypoint": KeypointReader(content["categories"], self.anno_path)} if self.with_keypoints else {}

    def _pack(
        self,
        grouped: Mapping[int, Sequence[Mapping[str, Any]]],
        audit: Audit,
        readers: Mapping[str, FieldReader],
    ) -> PackedRecords:
        """Pack the objects of each image: (boxes xyxy, labels, is_crowd, segmentations or None, further fields)."""
        index = {category: place for place, category in enumerate(self.category_ids)}

        def record(image: Mapping[str, Any]) -> tuple[Any, ...]:
            chosen, crowd = [], []
            for annotation in grouped[image["id"]]:
                reason = flaw(annotation, image_size(image), self._outlined)
                group = bool(annotation.get("iscrowd")) and not self.load_crowd
                audit.add(annotation, image, reason or (CROWD if group else ""))
                if reason is None:
                    self._check_runs(annotation, image)
                    chosen.append(annotation)
                    crowd.append(int(group))
            boxes = np.array([annotation["bbox"] for annotation in chosen], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            return (
                boxes,
                np.array([index[annotation["category_id"]] for annotation in chosen], np.int64),
                np.array(crowd, np.uint8),
                [annotation["segmentation"] for annotation in chosen] if self._outlined else None,
                {key: reader.read(chosen) for key, reader in readers.items()},
            )

        return PackedRecords(record(image) for image in self.images)

    def _check_runs(self, annotation: Mapping[str, Any], image: Mapping[str, Any]) -> None:
        stated = stated_size(annotation.get("segmentation")) if self._outlined else None
        if stated is not None and stated != image_size(image):
            raise UserError(wrong_runs(annotation, image, stated, self.anno_path))

    def _log_objects(self, audit: Audit) -> None:
        """Log the numbers of objects that are trained on and of those that are not."""
        counts = dict(audit.counts)
        kept, crowds = counts.pop("", 0), counts.pop(CROWD, 0)
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        logger.info(
            "%s: %d objects%s, %d crowd regions (not trained on); dropped: %s",
            self.anno_path,
            kept,
            " (boxes only)" if not self._outlined else ", crowd regions treated as objects" if self.load_crowd else "",
            crowds,
            dropped or "none",
        )

    def _check_folder(self) -> None:
        if not os.path.isdir(self.image_dir):
            raise UserError(f"the image folder {self.image_dir} does not exist: check dataset_dir and image_dir")
        present: dict[str, set[str]] = {}
        missing = []
        for image in self.images:
            folder, name = os.path.split(os.path.join(self.image_dir, image["file_name"]))
            if folder not in present:
                present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in present[folder]:
                missing.append(os.path.join(folder, name))
        if missing:
            raise UserError(
                f"the image {missing[0]} named in {self.anno_path} is missing "
                f"({len(missing)} of {len(self.images)} images are missing)"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for the data loading processes, with the images in one block that they share."""
        return {**self.__dict__, "images": PackedRecords(self.images)}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def is_landscape(self, index: int) -> bool:
        """Return whether an image is wider than high; the images of a batch have the same orientation."""
        height, width = image_size(self.images[index])
        return width > height

    def __getitem__(self, index: int) -> Sample:
        """Return the index-th image with its objects, not yet decoded."""
        image = self.images[index]
        sample = Sample(
            image_path=os.path.join(self.image_dir, image["file_name"]),
            image_id=image["id"],
            orig_size=image_size(image),
            keep_masks=self.with_masks,
            semantic_source=self.semantic,
        )
        if self._records is not None:
            objects = self._records[index]
            sample.boxes, sample.labels, sample.is_crowd, sample.segmentations, sample.extra = objects
        return sample
