"""The images that a command line names: files, folders with all that is in them, patterns, lists."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from deploy.common.errors import UserError
from deploy.common.picture_names import picture_names

__all__ = ["SUFFIXES", "Images", "find_images"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
_LONGEST_LIST = 256 * 2**20
"""Bytes of a list of images; what is longer is something else."""


@dataclass(frozen=True)
class Images:
    """Image files in the order in which they are predicted.

    Attributes:
        paths: of the files.
        names: what results call them: paths below the folder that was given, with ``/``; of single files and of lists
            the file names, or where two files share one, their paths below the folder that all of them lie in.
        unreadable: a line about each folder that could not be searched.
        notes: a line about each folder that was left out on purpose.
    """

    paths: list[str]
    names: list[str]
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def pictures(self) -> list[str]:
        """Return the file names, relative to the output folder, of the pictures that are made of the images."""
        return picture_names(self.names)

    def spare_from(self, folder: str | Path) -> None:
        """Check that pictures written into a folder replace none of the images.

        Raises:
            UserError: one would be replaced.
        """
        originals = {os.path.realpath(path): path for path in self.paths}
        for name in self.pictures():
            target = os.path.realpath(os.path.join(folder, name))
            if target in originals:
                raise UserError(
                    f"the picture of {originals[target]} would replace the image itself: choose another --output_dir "
                    f"than {folder}"
                )


def find_images(
    image: str | Sequence[str] | None,
    folder: str | Sequence[str] | None,
    listing: str | None,
    output: str | None = None,
) -> Images:
    """Find the image files that a command line names.

    Folders are searched with all folders in them; links to folders are followed, each folder is searched once. Hidden
    files and folders (``.name``) are left out. Patterns are the shell's, with ``**`` for any number of folders.

    Args:
        image: files, folders or patterns, one or several.
        folder: folders or patterns, one or several; or the folder that the files of ``listing`` are relative to.
        listing: text file with one path a line. Empty lines and lines that begin with ``#`` are left out. Relative
            paths are relative to ``folder``; without it to the working folder or, if they are not there, to the list's.
        output: folder that the results go to; left out where it lies inside of a searched folder.

    Raises:
        UserError: nothing named, something missing, or no image in there.
    """
    if image and (folder or listing):
        raise UserError("an image and a folder or list of images are given: leave one of them out")
    if listing:
        return _listed(listing, folder)
    sources = image or folder
    if not sources:
        raise UserError("no images given: add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE")
    search = _Search(output)
    for source in [sources] if isinstance(sources, str) else sources:
        search.add(source, folder_expected=not image)
    return Images(search.paths, _names(search.paths, search.bases), search.unreadable, search.notes)


def _names(paths: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Paths relative to their bases; where two of those agree, relative to the folder that all bases lie in."""
    names = [os.path.relpath(path, base) for path, base in zip(paths, bases)]
    if len({name.lower() for name in names}) < len(names):
        try:
            common = os.path.commonpath([os.path.abspath(base) for base in bases])
            names = [os.path.relpath(os.path.abspath(path), common) for path in paths]
        except ValueError:  # on different drives: their pictures are numbered
            pass
    return [PurePath(name).as_posix() for name in names]


def _kind(path: str) -> str | None:
    """``folder``, ``file``, ``other`` (a device, a pipe) or None for nothing.

    Raises:
        UserError: the system does not let us look.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot look at {path}: {getattr(error, 'strerror', None) or error}") from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


class _Search:
    """Collects images.

    Attributes:
        paths: of the files.
        bases: the folder that each one's name is relative to.
        unreadable: see `Images`.
        notes: see `Images`.
    """

    def __init__(self, output: str | None) -> None:
        self.paths: list[str] = []
        self.bases: list[str] = []
        self.unreadable: list[str] = []
        self.notes: list[str] = []
        self._output = output
        self._seen: set[tuple[int, int]] = set()
        self._others: Counter[str] = Counter()

    def add(self, source: str, folder_expected: bool) -> None:
        """Add what a file, a folder or a pattern stands for.

        Raises:
            UserError: nothing, or no image.
        """
        kind = _kind(source)
        if kind == "folder":
            self._add_folder(source, (), f"the folder {source} has no image")
        elif kind is None and glob.has_magic(source):
            self._add_pattern(source)
        elif kind is None:
            raise UserError(f"the {'folder' if folder_expected else 'image'} {source} does not exist")
        elif folder_expected:
            raise UserError(f"{source} is a file, not a folder: name the folder, or give the file as an image")
        elif kind == "other":
            raise UserError(f"{source} is neither an image file nor a folder")
        elif source.lower().endswith(_VIDEOS):
            raise UserError(f"{source} is a video: {_video_hint(source)}")
        else:
            self._append(source, os.path.dirname(source) or ".")

    def _append(self, path: str, base: str) -> None:
        self.paths.append(path)
        self.bases.append(base)

    def _add_pattern(self, pattern: str) -> None:
        parts = Path(pattern).parts
        fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        base = str(Path(*parts[:fixed]))
        if _kind(base) != "folder":
            raise UserError(f"the pattern {pattern} matches nothing: the folder {base} does not exist")
        self._add_folder(base, parts[fixed:], f"the pattern {pattern} matches no image")

    def _add_folder(self, base: str, patterns: Sequence[str], complaint: str) -> None:
        self._others.clear()
        found = sorted(self._walk(base, patterns), key=lambda path: Path(path).parts)
        if not found and self.unreadable:
            raise UserError(f"{complaint}: {self.unreadable[0]}")
        if not found:
            raise UserError(f"{complaint} ({', '.join(SUFFIXES)}){self._other_files()}")
        for path in found:
            self._append(path, base)

    def _walk(self, base: str, patterns: Sequence[str]) -> Iterator[str]:
        """Yield the images in a folder whose path in there the patterns, one for each step, match."""
        self._enter(base)
        own = self._inode(self._output) if self._output else None
        waiting: list[tuple[str, tuple[str, ...], bool]] = [(base, (), not patterns)]
        while waiting:
            folder, steps, whole = waiting.pop()
            for entry in self._entries(folder):
                path, below = os.path.join(folder, entry.name), (*steps, entry.name)
                wanted = whole or _matches(below, patterns)
                if _is_folder(entry):
                    if (wanted or _may_match(below, patterns)) and own is not None and own == self._inode(path):
                        self.notes.append(f"{path} is left out: it is the folder that the results go to")
                    elif (wanted or _may_match(below, patterns)) and self._enter(path):
                        waiting.append((path, below, wanted))
                elif not wanted:
                    continue
                elif entry.name.lower().endswith(SUFFIXES) and _is_image_file(entry):
                    yield path
                else:
                    self._others[os.path.splitext(entry.name)[1].lower()] += 1

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What is in a folder and not hidden, by name."""
        try:
            with os.scandir(folder) as entries:
                return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            self.unreadable.append(f"the folder {folder} cannot be read: {error.strerror or error}")
            return []

    def _enter(self, folder: str) -> bool:
        """Note a folder; return whether it is a new one, which ends loops of links."""
        inode = self._inode(folder)
        new = inode is None or inode not in self._seen
        if inode is not None:
            self._seen.add(inode)
        return new

    @staticmethod
    def _inode(folder: str) -> tuple[int, int] | None:
        try:
            found = os.stat(folder)
        except OSError:
            return None  # gone, or never there: nothing that could be met twice
        return found.st_dev, found.st_ino

    def _other_files(self) -> str:
        """Such as ``; it has 12 .heic, 1 .mp4``."""
        if not self._others:
            return ""
        listed = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in self._others.most_common(4))
        video = next((suffix for suffix in self._others if suffix in _VIDEOS), None)
        return f"; it has {listed}" + (f"; for videos, {_video_hint(f'FILE{video}')}" if video else "")


def _video_hint(path: str) -> str:
    return f"use python deploy/python/infer.py --model_dir EXPORTED_FOLDER --video_file {path}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    """A file; or a link to nowhere, which reading then names. Reading a pipe or a device would never end."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _matches(steps: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether patterns, one for each step of a path, match the whole of it; ``**`` stands for any number of steps."""
    if not patterns:
        return not steps
    if patterns[0] == "**":
        return any(_matches(steps[count:], patterns[1:]) for count in range(len(steps) + 1))
    return bool(steps) and fnmatch.fnmatch(steps[0], patterns[0]) and _matches(steps[1:], patterns[1:])


def _may_match(steps: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether something below a folder may match."""
    for step, pattern in zip(steps, patterns):
        if pattern == "**":
            return True
        if not fnmatch.fnmatch(step, pattern):
            return False
    return len(steps) < len(patterns)


def _listed(listing: str, folder: str | Sequence[str] | None) -> Images:
    """The files of a list."""
    base = folder if isinstance(folder, str) or folder is None else folder[0]
    if folder is not None and (not isinstance(folder, str) and len(folder) > 1 or _kind(str(base)) != "folder"):
        raise UserError(f"the paths in {listing} are relative to one folder, which {base} is not")
    paths, missing = [], []
    for number, line in _lines(listing):
        path = _resolved(line, listing, base)
        kind = _kind(path)
        if line.startswith("#") and kind is None:
            continue
        if kind == "folder":
            raise UserError(
                f"line {number} of {listing} names {path}, which is a folder: list files, or give the folder"
            )
        paths.append(path)
        if kind is None:
            missing.append(path)
    if missing:
        raise UserError(f"{listing} names {missing[0]}, which does not exist ({len(missing)} of {len(paths)})")
    if not paths:
        raise UserError(f"{listing} names no image")
    return Images(paths, _names(paths, [os.path.dirname(path) or "." for path in paths]))


def _resolved(line: str, listing: str, folder: str | None) -> str:
    if folder is not None:
        return os.path.join(folder, line)
    beside = os.path.join(os.path.dirname(listing), line)
    return beside if _kind(line) is None and _kind(beside) is not None else line


def _lines(listing: str) -> list[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty; UTF-8, or UTF-16 with its mark, as Windows writes it."""
    if _kind(listing) == "folder":
        raise UserError(f"{listing} is a folder, not a list: the list is a text file with one image path a line")
    try:
        with open(listing, "rb") as stream:  # a pipe, too: --infer_list <(find …)
            data = stream.read(_LONGEST_LIST + 1)
    except FileNotFoundError as error:
        raise UserError(f"the list of images {listing} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read the list of images {listing}: {error.strerror or error}") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if len(data) > _LONGEST_LIST or (b"\0" in data and not wide):
        raise UserError(f"{listing} is no list of images: it must be a text file with one path a line")
    try:
        # File names on Linux are bytes; those that are not UTF-8 stay what they are.
        text = (
            data.decode("utf-16")
            if wide
            else data.decode("utf-8-sig", "surrogateescape" if os.name == "posix" else "strict")
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{listing} is not in UTF-8: save it in that encoding ({error.reason})") from error
    lines = re.split(r"\r\n|\n|\r", text.replace("\0", "\ufffd"))
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
