"""The images that a command line names, and the names of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.common.errors import UserError

__all__ = ["SUFFIXES", "find_images", "output_names"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Pictures of other formats are written as PNG."""


def find_images(image: str | None, folder: str | None, listing: str | None) -> list[str]:
    """Return the image files that a command line names.

    Args:
        image: one file (or, as PaddleDetection allows, a folder).
        folder: all images in it, by name; the files of ``listing`` are relative to it.
        listing: text file with one path a line.

    Raises:
        UserError: nothing named, something missing, or no image in there.
    """
    if image:
        if Path(image).is_dir():
            return find_images(None, image, None)
        if not Path(image).is_file():
            raise UserError(f"the image {image} does not exist")
        return [image]
    if listing:
        try:
            lines = Path(listing).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the list of images {listing}: {error}") from error
        paths = [str(Path(folder or "") / line.strip()) for line in lines if line.strip()]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise UserError(f"{listing} names {missing[0]}, which does not exist ({len(missing)} of {len(paths)})")
        if not paths:
            raise UserError(f"{listing} names no image")
        return paths
    if folder:
        if not Path(folder).is_dir():
            raise UserError(f"the folder {folder} does not exist")
        found = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"the folder {folder} has no image ({', '.join(SUFFIXES)})")
        return found
    raise UserError("no images given: add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE")


def output_names(paths: Sequence[str]) -> list[str]:
    """Return a file name for each picture: the image's own, numbered where two images share it."""
    names: list[str] = []
    taken: set[str] = set()
    for path in map(Path, paths):
        suffix = path.suffix if path.suffix.lower() in WRITTEN else ".png"
        name, number = path.stem + suffix, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names
