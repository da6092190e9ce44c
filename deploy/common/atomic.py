"""Writing files so that a killed process never leaves half a file under a final name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deploy.common.errors import UserError

__all__ = ["atomic_path", "atomic_writer", "make_dir"]


def make_dir(path: str | Path) -> Path:
    """Create a folder with its parents and return it.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into the folder {folder}: no permission")
    return folder


def _to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Hand out a temporary name beside ``path``; what was written there takes the final name when the block ends.

    The content reaches the disk before the name changes, so that a power cut leaves the old or the new file, whole.
    The temporary name keeps the final one's extension, which some writers choose their format by.

    Args:
        path: final name; its folder is created where it is missing.

    Raises:
        UserError: the file cannot be written (disk full, no permission); an older file under that name stays.
    """
    target = Path(path)
    make_dir(target.parent)
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, target)
        if os.name == "posix":
            _to_disk(target.parent)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        kept = "; the file written before is kept" if target.exists() else ""
        raise UserError(f"cannot write {target}: {reason}{kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_writer(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a stream whose content becomes the file ``path`` when the block ends without an exception.

    Args:
        path: final name; its folder is created where it is missing.
        mode: ``wb`` or ``w`` (UTF-8).

    Raises:
        UserError: see `atomic_path`.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
        yield stream
