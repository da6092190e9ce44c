"""File names of what is made of images: no two alike, and none too long for a file system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["picture_names", "stem_names"]

_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Pictures of other formats are written as PNG."""
_FOLDERS = ("masks", "polygons")
"""Folders of a run's other results."""
_LONGEST = 200
"""Bytes of a name; file systems take 255, and temporary files and masks have longer names."""


def picture_names(names: Sequence[str]) -> list[str]:
    """Return a relative path, with ``/``, for the picture of each image: the image's own, numbered where two share it.

    Args:
        names: paths of the images relative to some folder; of others the file name counts.

    Returns:
        paths which differ by more than upper and lower case, and none of which is a folder of another.
    """
    pictures: list[str] = []
    parents = [_folder(name) for name in names]
    folders = {str(step).lower() for parent in set(parents) for step in (parent, *parent.parents)}
    taken: set[str] = set()
    for name, parent in zip(names, parents):
        path = PurePosixPath(name)
        suffix = path.suffix if path.suffix.lower() in _WRITTEN else ".png"
        stem = _shortened(path.stem)
        picture, number = str(parent / f"{stem}{suffix}"), 1
        while picture.lower() in taken or picture.lower() in folders:
            number += 1
            picture = str(parent / f"{stem}_{number}{suffix}")
        taken.add(picture.lower())
        pictures.append(picture)
    return pictures


def _shortened(stem: str) -> str:
    data = stem.encode("utf-8", "surrogateescape")
    return stem if len(data) <= _LONGEST else data[:_LONGEST].decode("utf-8", "ignore")


def _folder(name: str) -> PurePosixPath:
    """Folder of a picture; it leads out of the output folder never, and into a folder of other results neither."""
    parent = PurePosixPath(name).parent
    if parent.is_absolute() or ".." in parent.parts:
        return PurePosixPath(".")
    if parent.parts and parent.parts[0].lower() in _FOLDERS:
        return PurePosixPath(f"{parent.parts[0]}_images", *parent.parts[1:])
    return parent


def stem_names(pictures: Sequence[str]) -> list[str]:
    """Return names without extension; where two pictures share one, with it (``a.jpg`` and ``a.png``)."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in pictures]
    often = Counter(stem.lower() for stem in stems)
    return [name if often[stem.lower()] > 1 else stem for name, stem in zip(pictures, stems)]
