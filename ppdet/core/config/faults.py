"""Finding the part of a value that violates its annotation, for messages."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from ppdet.core.config.errors import hint, nearest
from ppdet.core.config.ranges import Entries, OneOf
from ppdet.core.config.types import alternatives, describe, element_of, matches, show

__all__ = ["Fault", "find_fault"]


@dataclass(frozen=True)
class Fault:
    """A value that violates its annotation.

    Attributes:
        keys: path to the faulty part within the checked value; empty for the value itself.
        template: the message, a format string with ``{0}`` for the dotted key and ``{what}``.
        what: value of ``{what}``.
    """

    keys: tuple[str, ...]
    template: str
    what: str

    def below(self, key: str) -> Fault:
        """Return the same fault relative to the enclosing value."""
        return Fault((key, *self.keys), self.template, self.what)


def find_fault(value: Any, annotation: Any) -> Fault | None:
    """Return the fault of a value, located as precisely as possible, or None if the value is valid."""
    entries = _known_entries(annotation)
    if entries is not None and isinstance(value, Mapping):
        for key, item in value.items():
            if key not in entries:
                return Fault((str(key),), "unknown key {0}{what}", hint(str(key), entries))
            fault = find_fault(item, entries[key])
            if fault is not None:
                return fault.below(str(key))
        return None
    element = element_of(annotation)
    if isinstance(value, (list, tuple)) and _known_entries(element) is not None:
        for index, item in enumerate(value):
            fault = find_fault(item, element)
            if fault is not None:
                return fault.below(str(index))
    if matches(value, annotation):
        return None
    return Fault((), "{0} takes {what}", f"{describe(annotation)}, got {show(value)}{_meant(value, annotation)}")


def _known_entries(annotation: Any) -> dict[str, Any] | None:
    for choice in alternatives(annotation):
        for limit in typing.get_args(choice)[1:] if typing.get_origin(choice) is Annotated else ():
            if isinstance(limit, Entries):
                return limit.types
    return None


def _meant(value: Any, annotation: Any) -> str:
    """Return a suggestion if one of a few strings was misspelt."""
    for limit in typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ():
        if isinstance(limit, OneOf) and isinstance(value, str):
            match = nearest(value, [choice for choice in limit.choices if isinstance(choice, str)])
            return f"; did you mean '{match}'?" if match else ""
    return ""
