"""Errors about a configuration, and the search for the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ppdet.utils.errors import UserError

__all__ = ["ConfigError", "MissingKeyError", "ParameterError", "hint", "located", "nearest"]

LISTED_NAMES = 12
"""Up to this many valid names are listed whole when none resembles the wrong one."""


class ConfigError(UserError):
    """A mistake in a configuration file or in a ``-o`` override; the message is one line naming key and place."""


class MissingKeyError(ConfigError, AttributeError, KeyError):
    """A key was read that the configuration does not set.

    It is an AttributeError and a KeyError too, so that ``hasattr``, ``getattr`` with a default and ``copy`` work.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ParameterError(UserError, ValueError):
    """Arguments that a constructor cannot use, or that do not fit each other.

    Raised by constructors (and ``from_config``) of registered classes. Where a configuration set the arguments,
    ``create`` turns it into a ConfigError that names their keys and where they were written.

    Args:
        template: the message, a format string: ``{0}``, ``{1}``, … are the parameters, ``{name}`` one of ``values``.
        *parameters: names of the parameters; those of a part with dots (``bbox_assigner.cascade_iou``).
        **values: what else the message says.

    Attributes:
        owner: name of the class whose parameters they are; set by the check around its constructor.
    """

    def __init__(self, template: str, *parameters: str, **values: Any) -> None:
        super().__init__(template, *parameters)
        self.template, self.parameters, self.values = template, parameters, values
        self.owner = ""

    def sentence(self, names: Sequence[str]) -> str:
        """Return the message with the parameters called ``names``."""
        return self.template.format(*names, **self.values)

    def __str__(self) -> str:
        prefix = f"{self.owner}." if self.owner else ""
        return self.sentence([f"'{prefix}{name}'" for name in self.parameters])


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that resembles ``name`` most, upper and lower case alike, or None."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def hint(name: str, valid: Iterable[str]) -> str:
    """Return the tail of a message that tells which name was probably meant, or the short list of valid ones."""
    names = sorted(set(valid))
    match = nearest(name, names)
    if match is not None:
        return f"; did you mean '{match}'?"
    if not names:
        return "; it takes none"
    if len(names) <= LISTED_NAMES:
        return f"; valid: {', '.join(names)}"
    return ""


def located(origin: str | None) -> str:
    """Return the part of a message that says where a key was set: a file with its line, or the command line."""
    return f" ({origin})" if origin else ""
