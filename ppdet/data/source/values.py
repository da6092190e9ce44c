"""Checking and displaying single values of annotation files."""

from __future__ import annotations

import os
import re
import reprlib
from typing import Any

__all__ = ["NEVER_PRINTED", "file_name_flaw", "is_id", "is_number", "show"]

NEVER_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, some of which control a terminal, and unpaired surrogates."""

_LONGEST_NAME = 4096

_repr = reprlib.Repr()
_repr.maxlist = _repr.maxdict = 8
_repr.maxlong = _repr.maxstring = _repr.maxother = 50
_repr.maxlevel = 3


def is_id(value: Any) -> bool:
    """Return whether a value is an integer that fits 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: Any, largest: float = 1e9) -> bool:
    """Return whether a value is a finite number between ``-largest`` and ``largest``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def file_name_flaw(name: str) -> str | None:
    """Return why a file name may not be joined to the image folder, or None.

    A name may have sub-folders. It must neither be absolute nor leave the folder by ``..``: an annotation file from
    elsewhere must not determine which files of this machine are opened or overwritten.
    """
    if not name or len(name) > _LONGEST_NAME or NEVER_PRINTED.search(name):
        return "which is not a valid file name"
    if os.path.isabs(name) or re.match(r"[A-Za-z]:[\\/]|[\\/]", name):
        return "which is absolute; names must be relative to image_dir"
    if os.path.normpath(name.replace("\\", "/")).split("/")[0] == "..":
        return "which leaves the image folder; names must be relative to image_dir"
    return None


def show(value: Any) -> str:
    """Return a value as text for a message: on one line, escaped and shortened."""
    text = _repr.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
