"""Atomic file output: a process that is killed never leaves an incomplete file under its final name."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deploy.common.errors import UserError

__all__ = [
    "atomic_files",
    "atomic_path",
    "atomic_writer",
    "make_dir",
    "remove_leftovers",
    "writable_dir",
    "write_failure",
]

_PREFIX = ".tmp-"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed (ulimit -f)",
}
_STALE = 3600
"""Age in seconds after which a temporary file is removed even if a process with the id of its writer exists."""


def write_failure(error: OSError) -> str:
    """Return a short explanation of a write error."""
    return _FULL.get(error.errno or 0) or error.strerror or str(error)


def make_dir(path: str | Path) -> Path:
    """Create a folder and its parents, and return it.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"cannot create the folder {folder}: it is a file; choose another name") from error
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into the folder {folder}: no permission")
    return folder


def writable_dir(path: str | Path) -> Path:
    """Create a folder as `make_dir` does and verify that it is writable by writing a file, regardless of permissions.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    folder = make_dir(path)
    probe = folder / f"{_PREFIX}{os.getpid()}-probe"
    try:
        probe.write_bytes(b"\0" * 4096)
        _to_disk(probe)
    except OSError as error:
        raise UserError(f"cannot write into the folder {folder}: {write_failure(error)}") from error
    finally:
        probe.unlink(missing_ok=True)
    return folder


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete and return the temporary files of killed processes in a folder; files that are being written are kept."""
    removed = []
    for file in sorted(Path(folder).glob(f"{_PREFIX}*")):
        process = file.name[len(_PREFIX) :].partition("-")[0]
        if process.isdigit() and file.is_file() and not _in_use(int(process), file):
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


def _in_use(process: int, file: Path) -> bool:
    """Return whether the process whose id is part of the file name may still be writing the temporary file."""
    if process == os.getpid() or time.time() - file.stat().st_mtime > _STALE:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it exists and belongs to another user
    return True


def _to_disk(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names_to_disk(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk if the file system supports this."""
    try:
        _to_disk(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not supported by some network file systems
            raise


@contextmanager
def atomic_files(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Yield a temporary path next to each of ``paths``, to which the files are renamed, in order, when the block ends.

    All content is flushed to the disk before the first file is renamed, so that after a power failure or with a full
    disk, either the old or the new file is complete. A temporary path has the same extension as the final one, because
    some writers choose the file format by the extension.

    Args:
        paths: final paths; missing folders are created.

    Raises:
        UserError: a file cannot be written (disk full, no permission); existing files are kept.
    """
    targets = [Path(path) for path in paths]
    for target in targets:
        make_dir(target.parent)
    temporaries = [target.with_name(f"{_PREFIX}{os.getpid()}-{target.name}") for target in targets]
    try:
        yield temporaries
        for temporary in temporaries:
            _to_disk(temporary)
        for temporary, target in zip(temporaries, targets):
            os.replace(temporary, target)
        if os.name == "posix":
            for folder in {target.parent for target in targets}:
                _names_to_disk(folder)
    except OSError as error:
        kept = "; the existing file is kept" if any(target.exists() for target in targets) else ""
        raise UserError(f"cannot write {targets[0]}: {write_failure(error)}{kept}") from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """`atomic_files` for a single file."""
    with atomic_files([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_writer(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a stream that is saved as the file ``path`` if the block ends without an exception.

    Args:
        path: final path; its folder is created if it is missing.
        mode: ``wb`` or ``w`` (UTF-8).

    Raises:
        UserError: see `atomic_path`.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
        yield stream
