"""A lock that keeps other trainings out of a run's folder."""

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
"""File in the run folder; contains host, process and start time of the training that writes there."""

_REFRESH = 20.0
"""Seconds between two updates of the file's modification time, which show that the training is alive."""

_SILENT = 90.0
"""Seconds without an update after which a training on another host counts as ended."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context in which rank 0 keeps other trainings out of a run folder; evaluations may still read it.

    The lock is the operating system's lock on the file, which ends with its process, however that ends. Some file
    systems grant it to every host separately (NFS without its lock service) or have none; then the updates of the
    file's modification time decide for a training on another host, and the process id for one on the same host.

    Raises:
        UserError: another training uses the folder (the message gives its host and process), or it cannot be created.
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
        with suppress(OSError):  # the folder has been cleared, or the file system is unavailable
            path.unlink()
        os.close(descriptor)


def _acquired(path: Path) -> int:
    """Take the lock, record this process in the file, and return the file's descriptor."""
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
            if not _is_still(descriptor, path):  # its holder removed it after this process had opened it
                os.close(descriptor)
                continue
            if holder:
                logger.info("%s: process %s on %s ended without removing it", path, holder["pid"], holder["host"])
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
    """Another process holds the operating system's lock."""


def _lock(descriptor: int) -> bool:
    """Take the operating system's lock; return whether the file system supports it.

    Raises:
        _HeldError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the process id decides
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _HeldError from error
        return False
    return True


def _has_ended(path: Path, holder: dict[str, Any], locked: bool) -> bool:
    """Return whether the training that is recorded in the file has ended without removing it."""
    if holder["host"] == platform.node() and (locked or _is_free(holder["pid"])):
        return True
    logger.info("%s belongs to process %s on %s: checking whether it is alive", path, holder["pid"], holder["host"])
    try:
        seen = os.stat(path).st_mtime
        for _ in range(int(_SILENT)):
            time.sleep(1.0)
            if os.stat(path).st_mtime != seen:  # hosts' clocks differ, so only a change counts
                return False
    except FileNotFoundError:  # it has just ended
        pass
    return True


def _is_free(process: int) -> bool:
    """Return whether no process of this host has an id."""
    if os.name != "posix":  # on Windows, os.kill would send Ctrl-C
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
        f"that training first, or choose another folder with -o run_name=NAME or save_dir=FOLDER; if you are certain "
        f"that it has ended, remove {path}"
    )


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        current = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(current, os.fstat(descriptor))


def _read(descriptor: int) -> dict[str, Any]:
    """Return host, process and start time from the file; empty if it does not contain them."""
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
        with suppress(OSError):  # the file system is unavailable for a while; the operating system's lock stays
            os.utime(path)
