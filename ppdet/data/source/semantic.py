"""Sources of semantic label maps: PNG files or the instance annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from ppdet.core.config.faults import find_fault
from ppdet.core.config.ranges import Entries, OneOf
from ppdet.data.label_maps import read_label_map
from ppdet.data.transform.functional.masks import IGNORE, paint_labels
from ppdet.structures.sample import Sample, SemanticSource
from ppdet.utils.errors import UserError

__all__ = ["InstanceSemantic", "PngSemantic", "SemanticSettings", "semantic_source"]

SemanticSettings = Annotated[
    Mapping[str, Any],
    Entries(
        {
            "kind": Annotated[str, OneOf("png", "instances")],
            "dir": str,
            "suffix": str,
            "background": Annotated[str, OneOf("ignore", "class")],
            "labels": Annotated[str, OneOf("class", "category_id")],
        }
    ),
]
"""The keys of both kinds, because overriding ``kind`` alone leaves the keys of the other kind in place."""


class PngSemantic:
    """Label maps in PNG files, named like the images.

    The maps are in the same sub-folders as their images, or all in one folder if no two images have the same name.

    Args:
        folder: folder of the maps.
        suffix: file extension of the maps.
        num_classes: labels must be less than this, or 255; None for no check.
        image_dir: folder that the file names of the images are relative to.
    """

    needs_masks = False

    def __init__(
        self, folder: str, suffix: str = ".png", num_classes: int | None = None, image_dir: str | None = None
    ) -> None:
        self.folder = folder
        self.suffix = suffix
        self.num_classes = num_classes
        self.image_dir = image_dir

    def nested(self, file_name: str) -> str:
        """Return the file of an image's label map in the sub-folder of the image."""
        return os.path.join(self.folder, os.path.splitext(file_name)[0] + self.suffix)

    def path(self, file_name: str) -> str:
        """Return the file of an image's label map, in the sub-folder of the image if it exists there."""
        nested = self.nested(file_name)
        return nested if os.path.exists(nested) else self.nested(os.path.basename(file_name))

    def check(self, file_names: Sequence[str]) -> None:
        """Check that all maps exist.

        Raises:
            UserError: the folder or a map is missing, or two images would share a map.
        """
        if not os.path.isdir(self.folder):
            raise UserError(
                f"the folder of semantic maps {self.folder} does not exist: unpack COCO-Stuff's stuffthingmaps there, "
                "make maps with tools/make_semantic_maps.py, or set semantic: {kind: instances} (README, data)"
            )
        present: dict[str, set[str]] = {}
        missing: list[str] = []
        owners: dict[str, str] = {}
        for name in file_names:
            places = (self.nested(name), self.nested(os.path.basename(name)))
            path = next((place for place in places if _is_present(place, present)), None)
            if path is None:
                missing.append(name)
            elif owners.setdefault(path, name) != name:
                raise UserError(
                    f"the images {owners[path]} and {name} would share the semantic map {path}: put the maps into "
                    f"the sub-folders of their images, such as {places[0]}"
                )
        if missing:
            raise UserError(
                f"the semantic map {self.path(missing[0])} of image {missing[0]} is missing "
                f"({len(missing)} of {len(file_names)} maps are missing)"
            )

    def read(self, sample: Sample) -> np.ndarray:
        """Return the label map of a decoded sample, uint8 [h0, w0], 255 = ignore."""
        name = os.path.basename(sample.image_path)
        if self.image_dir is not None:
            name = os.path.relpath(sample.image_path, self.image_dir)
        return read_label_map(self.path(name), self.num_classes, sample.orig_size)


def _is_present(path: str, listings: dict[str, set[str]]) -> bool:
    """Return whether a file exists; each folder is listed once, since 118,000 single checks would take long."""
    folder, name = os.path.split(path)
    if folder not in listings:
        listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return name in listings[folder]


class InstanceSemantic:
    """Label maps made from the instance masks: each object has the label of its class, smaller objects on top.

    Args:
        class_labels: label of each class 0..K-1.
        background: label of all other pixels; 255 = ignore.
    """

    needs_masks = True

    def __init__(self, class_labels: Sequence[int], background: int = IGNORE) -> None:
        self.class_labels = np.asarray(class_labels, np.int64)
        self.background = background

    def read(self, sample: Sample) -> np.ndarray:
        """Return the label map of a decoded sample, uint8 [h0, w0], 255 = ignore."""
        masks = sample.masks
        if masks is None:
            masks = np.zeros((0, *sample.orig_size), np.uint8)
        return paint_labels(masks, self.class_labels[sample.labels], sample.is_crowd, self.background)


def semantic_source(
    settings: Mapping[str, Any] | None,
    dataset_dir: str,
    category_ids: Sequence[int],
    num_classes: int | None,
    file_names: Sequence[str],
    image_dir: str | None = None,
) -> SemanticSource | None:
    """Build the source that the ``semantic`` setting of a dataset describes.

    Args:
        settings: ``{kind: png, dir: …, suffix: .png}``; ``{kind: instances, background: ignore | class,
            labels: class | category_id}``; or None for no semantic maps.
        dataset_dir: folder that ``dir`` is relative to.
        category_ids: category ids of the dataset in the order of the classes.
        num_classes: number of classes of the semantic branch (``semantic_num_classes``), None if unknown.
        file_names: images whose maps must exist, relative to ``image_dir``.
        image_dir: folder of the images.

    Raises:
        UserError: the setting is not understood, a map is missing, or a label exceeds the classes of the branch.
    """
    if settings is None:
        return None
    kind = settings.get("kind")
    if kind is None or find_fault(settings, SemanticSettings) is not None:
        raise UserError(
            f"semantic: {dict(settings)} is not understood; write {{kind: png, dir: FOLDER, suffix: .png}}, "
            "{kind: instances, background: ignore or class, labels: class or category_id} or null"
        )
    if kind == "png":
        if not settings.get("dir"):
            raise UserError("semantic: {kind: png} needs dir, the folder of the label maps")
        folder, suffix = os.path.join(dataset_dir, settings["dir"]), settings.get("suffix", ".png")
        source = PngSemantic(folder, suffix, num_classes, image_dir)
        source.check(file_names)
        return source
    labels, background = settings.get("labels", "class"), settings.get("background", "ignore")
    values = list(range(len(category_ids))) if labels == "class" else [i - 1 for i in category_ids]
    rest = max(values, default=-1) + 1 if background == "class" else IGNORE
    highest = max([*values, rest if rest != IGNORE else -1], default=-1)
    bound = 255 if num_classes is None else min(num_classes, 255)
    if highest >= bound or min(values, default=0) < 0:
        raise UserError(
            f"the semantic maps made from the instances have labels up to {highest}, but semantic_num_classes is "
            f"{num_classes}: set it to {highest + 1}"
        )
    return InstanceSemantic(values, rest)
