"""Logging: rank 0 speaks on the screen, every rank's errors are shown, a run folder keeps a copy."""

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
    """Names the level of what is more than a piece of information, so that the other lines stay short."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.severity = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        return super().format(record)


class _Stdout(logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is at that moment, so that redirecting it later has its effect."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]
        """The current standard output."""
        return sys.stdout

    def format(self, record: logging.LogRecord) -> str:
        """Escape what the output's encoding has no letters for, instead of failing on it."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)


class _File(logging.FileHandler):
    """Stops, saying so once, where the file cannot be written any more: a full disk must not bury its own message."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Called within the handling of the exception."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        setup_logger().removeHandler(self)
        setup_logger().warning("nothing more is written to %s: %s", self.baseFilename, error.strerror or error)


def _rank() -> int:
    """Rank of this process as ``paddle.distributed.launch`` sets it; no import of Paddle is needed to log."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0") or 0)


def setup_logger(name: str = NAME) -> logging.Logger:
    """Return the logger ``name`` (``ppdet`` or one below it), with the project's handler set up on ``ppdet``.

    Ranks other than 0 log errors only, and say which rank they are.
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
    """Drop the first ``start`` bytes of a log file that is being written, and go on writing it."""
    _close_log_file()
    kept = Path(path).read_bytes()[start:]
    Path(path).write_bytes(kept)
    add_log_file(path)


def add_log_file(path: str | Path) -> None:
    """Append everything logged from now on to ``path`` as well, instead of to the file of an earlier call."""
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
