"""One training in one run folder at a time."""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deploy.common.atomic import make_dir, write_failure
from ppdet.engine.distributed.env import is_main
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

__all__ = ["LOCK", "run_lock"]

logger = setup_logger(__name__)

LOCK = "train.lock"
"""File in the run folder; holds host, process and start of the training that writes there."""

_REFRESH = 20.0
"""Seconds between two signs of life in the file's modification time."""

_SILENT = 90.0
"""Seconds without one after which a training on another host is taken for dead."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context in which rank 0 keeps other trainings out of a run folder; evaluations are not asked.

    The operating system's lock on the file counts: it ends with its process, however that ends. Some file systems grant
    it to each host on its own (NFS without its lock service), or not at all; there the other host's signs of life
    count, and on the same host the process number.

    Raises:
        UserError: another training is at work in the folder, with its host and process; or the folder cannot be made.
    """
    if not is_main():
        yield
        return
    path = make_dir(folder) / LOCK
    descriptor = _acquired(path)
    done = threading.Event()
    threading.Thread(target=_show_life, args=(path, done), name="run lock", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with suppress(OSError):  # somebody has cleared the folder, or the file system has gone
            path.unlink()
        os.close(descriptor)


def _acquired(path: Path) -> int:
    """Return the descriptor that holds the lock, the file telling who does."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write the run folder's lock {path}: {write_failure(error)}") from error
        try:
            certain = _lock(descriptor)
            holder = _read(descriptor)
            if holder and not _has_ended(path, holder, certain):
                raise _refusal(path, holder)
            if not _is_still(descriptor, path):  # its holder removed it between our opening and locking it
                os.close(descriptor)
                continue
            if holder:
                logger.info("%s: process %s on %s has ended without removing it", path, holder["pid"], holder["host"])
            _write(descriptor)
        except _HeldError:
            holder = _read(descriptor)
            os.close(descriptor)
            raise _refusal(path, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class _HeldError(Exception):
    """Another process has the operating system's lock."""


def _lock(descriptor: int) -> bool:
    """Take the operating system's lock; return whether the file system has such locks.

    Raises:
        _HeldError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the process number decides
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _HeldError from error
        return False
    return True


def _has_ended(path: Path, holder: dict[str, Any], locked: bool) -> bool:
    """Whether the training that the file names is no more, though it left the file."""
    if holder["host"] == platform.node() and (locked or _is_free(holder["pid"])):
        return True
    logger.info("%s is of process %s on %s: looking whether that lives", path, holder["pid"], holder["host"])
    try:
        seen = os.stat(path).st_mtime
        for _ in range(int(_SILENT)):
            time.sleep(1.0)
            if os.stat(path).st_mtime != seen:  # clocks of hosts differ, so only a change counts
                return False
    except FileNotFoundError:  # it has ended just now
        pass
    return True


def _is_free(process: int) -> bool:
    """Whether no process of this host has a number."""
    if os.name != "posix":  # os.kill would be Ctrl-C there
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _refusal(path: Path, holder: dict[str, Any]) -> UserError:
    own = holder.get("pid") == os.getpid() and holder.get("host") == platform.node()
    who = "this process" if own else f"process {holder.get('pid', '?')} on host {holder.get('host', '?')}"
    return UserError(
        f"the run folder {path.parent} is in use: {who} has been training there since {holder.get('since', '?')}. End "
        f"that training first, or choose another folder with -o run_name=NAME or save_dir=FOLDER; if it is certain "
        f"that it has ended, remove {path}"
    )


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _read(descriptor: int) -> dict[str, Any]:
    """Who has written the file; empty where that cannot be told."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 4096).decode("utf-8", "replace"))
        return {"pid": int(holder["pid"]), "host": str(holder["host"])[:100], "since": str(holder["since"])[:40]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    text = json.dumps({"host": platform.node(), "pid": os.getpid(), "since": since}) + "\n"
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the run folder's lock: {write_failure(error)}") from error


def _show_life(path: Path, done: threading.Event) -> None:
    while not done.wait(_REFRESH):
        with suppress(OSError):  # the file system is away for a while; the system's lock holds without
            os.utime(path)
