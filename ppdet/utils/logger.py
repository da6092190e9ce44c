"""Logging: rank 0 logs to the standard output, other ranks only log errors, and the run folder contains a copy."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from deploy.common.printable import PrintableFormatter

__all__ = ["add_log_file", "cut_log_file", "setup_logger"]

NAME = "ppdet"
FORMAT = "[%(asctime)s] %(severity)s%(message)s"


class _Formatter(PrintableFormatter):
    """Shows the level of warnings and errors only, so that the other lines stay short."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.severity = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        return super().format(record)


class _Stdout(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, so that redirecting it later has an effect."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]
        """The current standard output."""
        return sys.stdout

    def format(self, record: logging.LogRecord) -> str:
        """Escape characters that the encoding of the output does not have, instead of failing."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)


class _File(logging.FileHandler):
    """Stops writing, with one warning, when the file cannot be written: the cause (a full disk) must stay visible."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """See `logging.Handler`; called while the exception is being handled."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        setup_logger().removeHandler(self)
        setup_logger().warning("logging to %s has stopped: %s", self.baseFilename, error.strerror or error)


def _rank() -> int:
    """Return the rank of this process as set by ``paddle.distributed.launch``, without importing Paddle."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def setup_logger(name: str = NAME) -> logging.Logger:
    """Return the logger ``name`` (``ppdet`` or a child of it) and set up the handler of ``ppdet``.

    Ranks other than 0 only log errors, prefixed with their rank.
    """
    root = logging.getLogger(NAME)
    if not any(isinstance(handler, _Stdout) for handler in root.handlers):
        rank = _rank()
        handler = _Stdout()
        handler.setFormatter(_Formatter(FORMAT if rank == 0 else f"[rank {rank}] {FORMAT}", "%m/%d %H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(logging.INFO if rank == 0 else logging.ERROR)
        root.propagate = False
    return logging.getLogger(name if name == NAME or name.startswith(NAME + ".") else f"{NAME}.{name}")


def cut_log_file(path: str | Path, start: int) -> None:
    """Remove the first ``start`` bytes of the open log file and continue to write to it."""
    _close_log_file()
    kept = Path(path).read_bytes()[start:]
    Path(path).write_bytes(kept)
    add_log_file(path)


def add_log_file(path: str | Path) -> None:
    """Also append everything that is logged from now on to ``path``, which replaces the file of an earlier call."""
    _close_log_file()
    file_handler = _File(path, mode="a", encoding="utf-8")
    file_handler.setFormatter(_Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    setup_logger().addHandler(file_handler)


def _close_log_file() -> None:
    root = setup_logger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
