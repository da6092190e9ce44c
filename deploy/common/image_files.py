"""Input images of a command line: files, folders (searched recursively), patterns and lists."""

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
"""Maximum size of a list of images in bytes."""


@dataclass(frozen=True)
class Images:
    """Image files in the order in which they are processed.

    Attributes:
        paths: paths of the files.
        names: names of the images in the results. For files in a given folder, these are the paths relative to it, with
            ``/``. For single files and lists, these are the file names or, if two files have the same name, the paths
            relative to the common parent folder.
        unreadable: a message about each folder that could not be searched.
        notes: a message about each folder that was skipped intentionally.
    """

    paths: list[str]
    names: list[str]
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def pictures(self) -> list[str]:
        """Return the file names of the visualizations, relative to the output folder."""
        return picture_names(self.names)

    def check_not_overwritten(self, folder: str | Path) -> None:
        """Check that visualizations written to a folder do not overwrite the images.

        Raises:
            UserError: an image would be overwritten.
        """
        originals = {os.path.realpath(path): path for path in self.paths}
        for name in self.pictures():
            target = os.path.realpath(os.path.join(folder, name))
            if target in originals:
                raise UserError(
                    f"the visualization of {originals[target]} would overwrite the image itself; "
                    f"choose an --output_dir other than {folder}"
                )


def find_images(
    image: str | Sequence[str] | None,
    folder: str | Sequence[str] | None,
    listing: str | None,
    output: str | None = None,
) -> Images:
    """Find the input images of a command line.

    Folders are searched recursively. Links to folders are followed, and each folder is searched once. Hidden files and
    folders (``.name``) are skipped. Patterns have the syntax of the shell, with ``**`` for any number of folders.

    Args:
        image: one or more files, folders or patterns.
        folder: one or more folders or patterns; or the folder that the paths in ``listing`` are relative to.
        listing: text file with one path per line. Empty lines and lines starting with ``#`` are ignored. Relative paths
            are relative to ``folder``; without it, to the working directory or, if they do not exist there, to the
            folder of the list.
        output: output folder; it is skipped if it is inside of a searched folder.

    Raises:
        UserError: no input is given, a file or folder does not exist, or there are no images.
    """
    if image and (folder or listing):
        raise UserError("an image and a folder or list of images are given; specify only one of them")
    if listing:
        return _listed(listing, folder)
    sources = image or folder
    if not sources:
        raise UserError("no images are given; add --infer_img FILE, --infer_dir FOLDER or --infer_list FILE")
    search = _Search(output)
    for source in [sources] if isinstance(sources, str) else sources:
        search.add(source, folder_expected=not image)
    return Images(search.paths, _names(search.paths, search.bases), search.unreadable, search.notes)


def _names(paths: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Return the paths relative to their bases or, if two of these are equal, relative to the common parent folder."""
    names = [os.path.relpath(path, base) for path, base in zip(paths, bases)]
    if len({name.lower() for name in names}) < len(names):
        try:
            common = os.path.commonpath([os.path.abspath(base) for base in bases])
            names = [os.path.relpath(os.path.abspath(path), common) for path in paths]
        except ValueError:  # on different drives; visualizations with the same name are numbered
            pass
    return [PurePath(name).as_posix() for name in names]


def _kind(path: str) -> str | None:
    """Return ``folder``, ``file``, ``other`` (a device or pipe), or None if the path does not exist.

    Raises:
        UserError: the path cannot be accessed.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot access {path}: {getattr(error, 'strerror', None) or error}") from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


class _Search:
    """Collects images.

    Attributes:
        paths: paths of the files.
        bases: for each file, the folder that its name is relative to.
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
        """Add the images of a file, a folder or a pattern.

        Raises:
            UserError: the file or folder does not exist, or there are no images.
        """
        kind = _kind(source)
        if kind == "folder":
            self._add_folder(source, (), f"the folder {source} contains no images")
        elif kind is None and glob.has_magic(source):
            self._add_pattern(source)
        elif kind is None:
            raise UserError(f"the {'folder' if folder_expected else 'image'} {source} does not exist")
        elif folder_expected:
            raise UserError(f"{source} is a file, not a folder; specify a folder, or pass the file as an image")
        elif kind == "other":
            raise UserError(f"{source} is neither an image file nor a folder; specify an image, a folder or a pattern")
        elif source.lower().endswith(_VIDEOS):
            raise UserError(f"{source} is a video; {_video_hint(source)}")
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
            raise UserError(f"the pattern {pattern} matches no images because the folder {base} does not exist")
        self._add_folder(base, parts[fixed:], f"the pattern {pattern} matches no images")

    def _add_folder(self, base: str, patterns: Sequence[str], complaint: str) -> None:
        self._others.clear()
        images = sorted(self._walk(base, patterns), key=lambda path: Path(path).parts)
        if not images and self.unreadable:
            raise UserError(f"{complaint}: {self.unreadable[0]}")
        if not images:
            raise UserError(f"{complaint} ({', '.join(SUFFIXES)}){self._other_files()}")
        for path in images:
            self._append(path, base)

    def _walk(self, base: str, patterns: Sequence[str]) -> Iterator[str]:
        """Yield the images in a folder whose relative paths match the patterns, one pattern per path component."""
        self._enter(base)
        output = self._inode(self._output) if self._output else None
        waiting: list[tuple[str, tuple[str, ...], bool]] = [(base, (), not patterns)]
        while waiting:
            folder, steps, whole = waiting.pop()
            for entry in self._entries(folder):
                path, below = os.path.join(folder, entry.name), (*steps, entry.name)
                matches = whole or _matches(below, patterns)
                if _is_folder(entry):
                    if (matches or _may_match(below, patterns)) and output is not None and output == self._inode(path):
                        self.notes.append(f"{path} is skipped because it is the output folder")
                    elif (matches or _may_match(below, patterns)) and self._enter(path):
                        waiting.append((path, below, matches))
                elif not matches:
                    continue
                elif entry.name.lower().endswith(SUFFIXES) and _is_image_file(entry):
                    yield path
                else:
                    self._others[os.path.splitext(entry.name)[1].lower()] += 1

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """Return the entries of a folder that are not hidden, sorted by name."""
        try:
            with os.scandir(folder) as entries:
                visible = (entry for entry in entries if not entry.name.startswith("."))
                return sorted(visible, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append(f"the folder {folder} cannot be read: {error.strerror or error}")
            return []

    def _enter(self, folder: str) -> bool:
        """Record a folder and return whether it is new, which terminates cycles of links."""
        inode = self._inode(folder)
        new = inode is None or inode not in self._seen
        if inode is not None:
            self._seen.add(inode)
        return new

    @staticmethod
    def _inode(folder: str) -> tuple[int, int] | None:
        try:
            status = os.stat(folder)
        except OSError:
            return None  # it does not exist, so it cannot be visited twice
        return status.st_dev, status.st_ino

    def _other_files(self) -> str:
        """Describe the other files, for example ``; it contains 12 .heic, 1 .mp4``."""
        if not self._others:
            return ""
        listed = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in self._others.most_common(4))
        video = next((suffix for suffix in self._others if suffix in _VIDEOS), None)
        return f"; it contains {listed}" + (f"; for videos, {_video_hint(f'FILE{video}')}" if video else "")


def _video_hint(path: str) -> str:
    return f"use python deploy/python/infer.py --model_dir EXPORTED_FOLDER --video_file {path}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a cyclic link
        return False


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a broken link, which is reported later. Pipes and devices would block forever."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _matches(steps: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether patterns, one per path component, match a path; ``**`` matches any number of components."""
    if not patterns:
        return not steps
    if patterns[0] == "**":
        return any(_matches(steps[count:], patterns[1:]) for count in range(len(steps) + 1))
    return bool(steps) and fnmatch.fnmatch(steps[0], patterns[0]) and _matches(steps[1:], patterns[1:])


def _may_match(steps: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path below a folder may match the patterns."""
    for step, pattern in zip(steps, patterns):
        if pattern == "**":
            return True
        if not fnmatch.fnmatch(step, pattern):
            return False
    return len(steps) < len(patterns)


def _listed(listing: str, folder: str | Sequence[str] | None) -> Images:
    """Return the images of a list."""
    base = folder if isinstance(folder, str) or folder is None else folder[0]
    if folder is not None and (not isinstance(folder, str) and len(folder) > 1 or _kind(str(base)) != "folder"):
        raise UserError(f"the paths in {listing} must be relative to a single existing folder, not {base}")
    paths, missing = [], []
    for line_number, line in _lines(listing):
        path = _resolved(line, listing, base)
        kind = _kind(path)
        if line.startswith("#") and kind is None:
            continue
        if kind == "folder":
            raise UserError(
                f"line {line_number} of {listing} is the folder {path}; list the image files, or pass the folder itself"
            )
        paths.append(path)
        if kind is None:
            missing.append(path)
    if missing:
        raise UserError(f"{missing[0]} in {listing} does not exist ({len(missing)} of {len(paths)} files are missing)")
    if not paths:
        raise UserError(f"{listing} contains no images; add one image path per line")
    return Images(paths, _names(paths, [os.path.dirname(path) or "." for path in paths]))


def _resolved(line: str, listing: str, folder: str | None) -> str:
    if folder is not None:
        return os.path.join(folder, line)
    beside = os.path.join(os.path.dirname(listing), line)
    return beside if _kind(line) is None and _kind(beside) is not None else line


def _lines(listing: str) -> list[tuple[int, str]]:
    """Return numbers and texts of non-empty lines in UTF-8, or in UTF-16 with byte order mark as written by Windows."""
    if _kind(listing) == "folder":
        raise UserError(f"{listing} is a folder; the list of images must be a text file with one path per line")
    try:
        with open(listing, "rb") as stream:  # may be a pipe: --infer_list <(find …)
            data = stream.read(_LONGEST_LIST + 1)
    except FileNotFoundError as error:
        raise UserError(f"the list of images {listing} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read the list of images {listing}: {error.strerror or error}") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if len(data) > _LONGEST_LIST or (b"\0" in data and not wide):
        raise UserError(f"{listing} is not a list of images; the list must be a text file with one path per line")
    try:
        # File names on Linux are bytes; names that are not valid UTF-8 are preserved.
        text = (
            data.decode("utf-16")
            if wide
            else data.decode("utf-8-sig", "surrogateescape" if os.name == "posix" else "strict")
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{listing} is not encoded in UTF-8 ({error.reason}); save it in that encoding") from error
    lines = re.split(r"\r\n|\n|\r", text.replace("\0", "\ufffd"))
    return [(line_number, line.strip()) for line_number, line in enumerate(lines, start=1) if line.strip()]
