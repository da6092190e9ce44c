"""Writing semantic label maps, made from COCO annotations, as PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from deploy.common.atomic import make_dir
from ppdet.data.source.annotations import checked_sizes, group_annotations, image_size, read_annotations, wrong_runs
from ppdet.data.source.objects import flaw
from ppdet.data.source.semantic import InstanceSemantic, PngSemantic, semantic_source
from ppdet.data.transform.functional.masks import (
    IGNORE,
    is_valid_segmentation,
    paint_labels,
    rasterize_all,
    stated_size,
)
from ppdet.utils.errors import UserError

__all__ = ["SemanticMapMaker", "write_maps"]

OTHER = "other"
"""Category of COCO's stuff files that covers all things; it is not a class."""


class SemanticMapMaker:
    """Makes label maps from one or two COCO annotation files.

    Things alone give the maps that ``semantic: {kind: instances}`` of the dataset makes on the fly. With a stuff file
    the labels are category id - 1, as in COCO-Stuff's stuffthingmaps; things cover stuff, and the rest is ignored.

    Args:
        instances: annotation file of the things, or None.
        stuff: annotation file of the stuff (COCO's stuff_train2017.json), or None.
        labels: label of a thing, its class (``class``) or its category id - 1 (``category_id``).
        background: label of all other pixels, 255 (``ignore``) or a class of their own (``class``).

    Attributes:
        num_classes: number of classes of a semantic branch that trains on the maps (``semantic_num_classes``).
        images: entries of the images.

    Raises:
        UserError: a file is broken, no file is given, or the options do not suit stuff.
    """

    def __init__(
        self, instances: str | None, stuff: str | None = None, labels: str = "class", background: str = "ignore"
    ) -> None:
        if instances is None and stuff is None:
            raise UserError("there is nothing to make maps from: give --instances, --stuff or both")
        if stuff is not None and (labels, background) != ("category_id", "ignore"):
            raise UserError(
                "maps with stuff need --labels category_id and --background ignore, because things and stuff "
                "share one numbering and stuff is the background"
            )
        self.images: list[dict[str, Any]] = []
        self.num_classes = 0
        self._things_file, self._stuff_file = str(instances), str(stuff)
        self._things: dict[int, list[Mapping[str, Any]]] = {}
        self._stuff: dict[int, list[Mapping[str, Any]]] = {}
        self._places: dict[int, int] = {}
        self._no_class: set[int] = set()
        self._source = InstanceSemantic([])
        if instances is not None:
            self._read_things(instances, {"kind": "instances", "labels": labels, "background": background})
        if stuff is not None:
            self._read_stuff(stuff)

    def _read_things(self, path: str, settings: Mapping[str, Any]) -> None:
        content = read_annotations(path)
        checked_sizes(content["images"], path)
        self._things = group_annotations(content, path)
        self.images = content["images"]
        ids = sorted(category["id"] for category in content["categories"])
        self._places = {category: place for place, category in enumerate(ids)}
        source = semantic_source(settings, "", ids, None, [])
        assert isinstance(source, InstanceSemantic)
        self._source = source
        highest = int(source.class_labels.max())
        self.num_classes = max(highest, source.background if source.background != IGNORE else highest) + 1

    def _read_stuff(self, path: str) -> None:
        content = read_annotations(path)
        checked_sizes(content["images"], path)
        self._stuff = group_annotations(content, path)
        self.images = self.images or content["images"]
        ids = [category["id"] for category in content["categories"]]
        if min(ids) < 1 or max(ids) > 255:
            raise UserError(
                f"{path} has category ids from {min(ids)} to {max(ids)}: as labels (id - 1) in a PNG only 1 to 255 fit"
            )
        self._no_class = {category["id"] for category in content["categories"] if category["name"] == OTHER}
        self.num_classes = max(self.num_classes, *ids)

    def make(self, image: Mapping[str, Any]) -> np.ndarray:
        """Return the label map of an image, uint8 [h, w].

        Raises:
            UserError: an outline does not fit the image.
        """
        size = image_size(image)
        things = [a for a in self._things.get(image["id"], ()) if flaw(a, size, outlined=True) is None]
        stuff = [
            a
            for a in self._stuff.get(image["id"], ())
            if a["category_id"] not in self._no_class and is_valid_segmentation(a.get("segmentation"), size)
        ]
        under = paint_labels(
            _draw(stuff, image, self._stuff_file),
            np.array([a["category_id"] - 1 for a in stuff], np.int64),
            np.zeros(len(stuff), np.uint8),
            self._source.background,
        )
        labels = self._source.class_labels[np.array([self._places[a["category_id"]] for a in things], np.int64)]
        crowd = np.array([bool(a.get("iscrowd")) for a in things], np.uint8)
        return paint_labels(_draw(things, image, self._things_file), labels, crowd, under)


def write_maps(maker: SemanticMapMaker, folder: str | Path, suffix: str = ".png", progress: bool = True) -> int:
    """Write the maps of all images into a folder, named like the images and in the same sub-folders.

    Args:
        maker: makes the maps.
        folder: output folder, created if needed; existing maps of the same names are replaced.
        suffix: file extension, which must end in ``.png``.
        progress: show a progress bar.

    Returns:
        The number of maps.

    Raises:
        UserError: two images have the same name, an outline does not fit, or the folder is not writable.
    """
    if not suffix.endswith(".png"):
        raise UserError(f"label maps are written as PNG files, but the suffix '{suffix}' does not end in .png")
    files = PngSemantic(str(folder), suffix)
    targets: dict[str, str] = {}
    for image in maker.images:
        target = files.nested(image["file_name"])
        if target in targets:
            raise UserError(f"the images {targets[target]} and {image['file_name']} would share the map {target}")
        targets[target] = image["file_name"]
    make_dir(folder)
    for parent in sorted({str(Path(target).parent) for target in targets}):
        make_dir(parent)
    for target, image in _bar(list(zip(targets, maker.images)), progress):
        _write(Path(target), maker.make(image))
    return len(targets)


def _bar(pairs: Sequence[tuple[str, Any]], progress: bool) -> Iterator[tuple[str, Any]]:
    yield from tqdm(pairs, unit="map", disable=not progress)


def _draw(annotations: Sequence[Mapping[str, Any]], image: Mapping[str, Any], path: str) -> np.ndarray:
    """Return the bitmaps uint8 [G, h, w] of annotations of the file ``path``."""
    for annotation in annotations:
        stated = stated_size(annotation["segmentation"])
        if stated is not None and stated != image_size(image):
            raise UserError(wrong_runs(annotation, image, stated, path))
    try:
        return rasterize_all([annotation["segmentation"] for annotation in annotations], *image_size(image))
    except ValueError as error:
        raise UserError(f"the outlines of the image {image['file_name']} cannot be drawn: {error}") from error


def _write(target: Path, labels: np.ndarray) -> None:
    """Write a PNG under a temporary name first. Waiting for the disk with each of 118,000 files would take hours;
    a map lost in a power cut is found missing, or broken, by name.
    """
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        temporary.write_bytes(cv2.imencode(".png", labels)[1].tobytes())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write the semantic map {target}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
