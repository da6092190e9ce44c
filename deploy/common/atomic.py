"""Writing files so that a killed process never leaves half a file under a final name."""

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
"""Seconds after which a temporary file is a leftover even if some process has its writer's number."""


def write_failure(error: OSError) -> str:
    """Say in a few words why writing failed."""
    return _FULL.get(error.errno or 0) or error.strerror or str(error)


def make_dir(path: str | Path) -> Path:
    """Create a folder with its parents and return it.

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
    """`make_dir`, and try to write a file into the folder: the answer counts, not what the permissions promise.

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
    """Delete temporary files that killed processes left in a folder, and return them; those being written stay."""
    removed = []
    for file in sorted(Path(folder).glob(f"{_PREFIX}*")):
        number = file.name[len(_PREFIX) :].partition("-")[0]
        if number.isdigit() and file.is_file() and not _in_use(int(number), file):
            file.unlink(missing_ok=True)
            removed.append(file)
    return removed


def _in_use(process: int, file: Path) -> bool:
    """Whether the process that a temporary file is named after may still be writing it."""
    if process == os.getpid() or time.time() - file.stat().st_mtime > _STALE:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, and belongs to someone else
    return True


def _to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names_to_disk(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the file system can say so."""
    try:
        _to_disk(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems: no such call
            raise


@contextmanager
def atomic_files(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Hand out a temporary name beside each of ``paths``; what was written there takes the final names when the block
    ends, in the order given.

    All content reaches the disk before the first name changes, so that a power cut or a full disk leaves the old or the
    new file, whole. The temporary name keeps the final one's extension, which some writers choose their format by.

    Args:
        paths: final names; their folders are created where they are missing.

    Raises:
        UserError: a file cannot be written (disk full, no permission); older files under those names stay.
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
        kept = "; the file written before is kept" if any(target.exists() for target in targets) else ""
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
    """Open a stream whose content becomes the file ``path`` when the block ends without an exception.

    Args:
        path: final name; its folder is created where it is missing.
        mode: ``wb`` or ``w`` (UTF-8).

    Raises:
        UserError: see `atomic_path`.
    """
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
        yield stream
