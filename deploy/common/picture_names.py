"""Unique file names for the outputs of images, within the length limits of file systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["picture_names", "stem_names"]

_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Visualizations of images in other formats are written as PNG."""
_FOLDERS = ("masks", "polygons")
"""Folders of the other results of a run."""
_LONGEST = 200
"""Maximum length of a name in bytes. File systems allow 255; temporary files and masks have longer names."""


def picture_names(names: Sequence[str]) -> list[str]:
    """Return the relative path, with ``/``, of the visualization of each image, numbered if two images have the same
    path.

    Args:
        names: relative paths of the images; for absolute paths and those with ``..``, only the file name is used.

    Returns:
        Paths that are unique without regard to case, and none of which is a parent folder of another.
    """
    pictures: list[str] = []
    parents = [_folder(name) for name in names]
    folders = {str(step).lower() for parent in set(parents) for step in (parent, *parent.parents)}
    taken: set[str] = set()
    for name, parent in zip(names, parents):
        path = PurePosixPath(name)
        suffix = path.suffix if path.suffix.lower() in _WRITTEN else ".png"
        stem = _shortened(path.stem)
        picture, suffix_number = str(parent / f"{stem}{suffix}"), 1
        while picture.lower() in taken or picture.lower() in folders:
            suffix_number += 1
            picture = str(parent / f"{stem}_{suffix_number}{suffix}")
        taken.add(picture.lower())
        pictures.append(picture)
    return pictures


def _shortened(stem: str) -> str:
    data = stem.encode("utf-8", "surrogateescape")
    return stem if len(data) <= _LONGEST else data[:_LONGEST].decode("utf-8", "ignore")


def _folder(name: str) -> PurePosixPath:
    """Return the folder of a visualization, which is never outside of the output folder or in one of other results."""
    parent = PurePosixPath(name).parent
    if parent.is_absolute() or ".." in parent.parts:
        return PurePosixPath(".")
    if parent.parts and parent.parts[0].lower() in _FOLDERS:
        return PurePosixPath(f"{parent.parts[0]}_images", *parent.parts[1:])
    return parent


def stem_names(pictures: Sequence[str]) -> list[str]:
    """Return names without extension, or with it if two visualizations share a name (``a.jpg`` and ``a.png``)."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in pictures]
    counts = Counter(stem.lower() for stem in stems)
    return [name if counts[stem.lower()] > 1 else stem for name, stem in zip(pictures, stems)]
