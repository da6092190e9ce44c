"""Safe unpacking of downloaded archives: only regular files inside one folder, and either all of them or none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Union

from deploy.common.atomic import make_dir
from deploy.common.printable import one_line
from ppdet.utils.errors import UserError

__all__ = ["is_archive", "unpack"]

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PACKING = 32
"""Maximum ratio of unpacked to packed size; weights hardly compress, so that a larger ratio is suspicious."""
_SMALL = 1 << 26
"""Unpacked size in bytes that is always accepted."""
_MAX_MEMBERS = 100_000
CHUNK = 1 << 20
_UNPACKERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""Functions that open a compressed archive, by its first bytes."""

_Archive = Union[zipfile.ZipFile, tarfile.TarFile]


@dataclass(frozen=True)
class _Member:
    """A file of an archive: the parts of its path, its declared size, and the archive's own record of it."""

    parts: tuple[str, ...]
    size: int
    record: Any


def is_archive(path: str | Path) -> bool:
    """Return whether a file name has the extension of an archive (``.zip``, ``.tar``, ``.tar.gz`` …)."""
    return str(path).lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack ``archive`` to ``folder`` and return it; an existing folder is assumed to be complete.

    Files get the user's default permissions, whatever the archive specifies. The folder gets its final name after its
    last file has been written.

    Raises:
        UserError: the archive is damaged, or a member is not a file or folder inside it; nothing is unpacked.
    """
    if folder.is_dir():
        return folder
    make_dir(folder.parent)
    working = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name}-", dir=folder.parent))
    content = working / "content"
    try:
        content.mkdir()
        with _open(archive) as opened:
            _write(opened, _members(archive, opened), archive, content)
        os.replace(content, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise UserError(f"{archive} is damaged ({one_line(error, 200)}); delete it to download it again") from error
    except (RuntimeError, MemoryError) as error:  # encrypted, unknown compression, or absurd headers
        raise UserError(f"{archive} cannot be unpacked: {error or type(error).__name__}") from error
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was faster
            raise UserError(f"cannot unpack {archive} to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return folder


class _Bounded:
    """The unpacked bytes of a tar archive, up to a limit.

    The headers of a tar archive declare their own size and are read into memory as a whole; compressed, a kilobyte of
    the file can expand to a megabyte of headers.

    Args:
        stream: the decompressing stream.
        limit: number of bytes that may be read in total.
    """

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes."""
        self._left -= count
        if count > 2 * CHUNK or self._left < 0:
            raise tarfile.ReadError("its headers are unreasonably large")
        return self._stream.read(count)

    def seek(self, place: int) -> int:
        """Move to a byte position."""
        return self._stream.seek(place)

    def tell(self) -> int:
        """Return the current byte position."""
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _limit(archive: Path) -> int:
    return max(_PACKING * archive.stat().st_size, _SMALL)


@contextmanager
def _open(archive: Path) -> Iterator[_Archive]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
        return
    with open(archive, "rb") as stream:
        start = stream.read(6)
    opener = next((opener for magic, opener in _UNPACKERS.items() if start.startswith(magic)), open)
    # Everything is read twice: once to check the members and once to write them.
    with closing(_Bounded(opener(archive, "rb"), 3 * _limit(archive))) as bounded:
        with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
            yield tar


def _records(opened: _Archive) -> Iterator[tuple[str, str, int, Any]]:
    """Yield name, kind (``file``, ``folder`` or another kind), size and record of each member."""
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            mode = info.external_attr >> 16
            special = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "folder" if info.is_dir() else ("link or device" if special else "file")
            yield info.orig_filename, kind, info.file_size, info
        return
    for member in opened:
        if member.issym() or member.islnk():
            kind = "link"
        elif member.issparse():
            kind = "sparse file"
        else:
            kind = "file" if member.isreg() else "folder" if member.isdir() else "device"
        yield member.name, kind, member.size, member


def _members(archive: Path, opened: _Archive) -> list[_Member]:
    """Return the files of an archive.

    Raises:
        UserError: a member must not be unpacked; the message names it.
    """
    files: dict[tuple[str, ...], _Member] = {}
    folders: set[tuple[str, ...]] = set()
    total = 0
    limit = _limit(archive)
    for count, (name, kind, size, record) in enumerate(_records(opened)):
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        total += size
        fault = ""
        if name.startswith(("/", "\\")) or ".." in parts or any(":" in part for part in parts):
            fault = "leads out of the folder"
        elif kind not in ("file", "folder"):
            fault = f"is a {kind}"
        elif not name.isprintable():
            fault = "has an unprintable name"
        elif parts in files or (kind == "file" and (parts in folders or not parts)):
            fault = "occurs twice"
        elif total > limit or count >= _MAX_MEMBERS:
            fault = "makes the archive unreasonably large"
        if fault:
            raise UserError(f"{archive}: its member {name[:100]!r} {fault}; refused, nothing was unpacked")
        if kind == "file":
            files[parts] = _Member(parts, size, record)
            folders.update(parts[:end] for end in range(1, len(parts)))
        else:
            folders.add(parts)
    inside = next((parts for parts in files if parts in folders), None)
    if inside is not None:
        raise UserError(f"{archive}: its member {'/'.join(inside)!r} is a file and a folder; refused")
    return list(files.values())


def _write(opened: _Archive, members: list[_Member], archive: Path, folder: Path) -> None:
    """Write the files into a new, empty folder, each with at most its declared size."""
    for member in members:
        target = folder.joinpath(*member.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        source: IO[bytes] | None
        if isinstance(opened, zipfile.ZipFile):
            source = opened.open(member.record)
        else:
            source = opened.extractfile(member.record)
        if source is None:
            raise UserError(f"{archive}: its member {'/'.join(member.parts)!r} cannot be read")
        left = member.size
        with source, open(target, "xb") as stream:
            while chunk := source.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                stream.write(chunk)
        if left:
            raise UserError(
                f"{archive}: its member {'/'.join(member.parts)!r} does not have its declared size; refused"
            )
