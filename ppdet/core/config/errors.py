"""Errors about configurations, and suggestions of the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ppdet.utils.errors import UserError

__all__ = ["ConfigError", "MissingKeyError", "ParameterError", "hint", "located", "nearest"]

LISTED_NAMES = 12
"""Up to this many valid names are listed if none resembles the wrong one."""


class ConfigError(UserError):
    """A mistake in a configuration file or in a ``-o`` override; the message is one line with key and origin."""


class MissingKeyError(ConfigError, AttributeError, KeyError):
    """A key was read that the configuration does not set.

    It is also an AttributeError and a KeyError, so that ``hasattr``, ``getattr`` with a default and ``copy`` work.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ParameterError(UserError, ValueError):
    """Arguments that a constructor cannot use, or that are inconsistent.

    Raised by constructors (and ``from_config``) of registered classes. If the arguments come from a configuration,
    ``create`` turns it into a ConfigError that names their keys and where they were written.

    Args:
        template: the message, a format string: ``{0}``, ``{1}``, … are the parameters, ``{name}`` one of ``values``.
        *parameters: names of the parameters, with dots for those of a part (``bbox_assigner.cascade_iou``).
        **values: other values in the message.

    Attributes:
        owner: name of the class that has the parameters; set by the check around its constructor.
    """

    def __init__(self, template: str, *parameters: str, **values: Any) -> None:
        super().__init__(template, *parameters)
        self.template, self.parameters, self.values = template, parameters, values
        self.owner = ""

    def sentence(self, names: Sequence[str]) -> str:
        """Return the message with the given names of the parameters."""
        return self.template.format(*names, **self.values)

    def __str__(self) -> str:
        prefix = f"{self.owner}." if self.owner else ""
        return self.sentence([f"'{prefix}{name}'" for name in self.parameters])


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is most similar to ``name``, ignoring case, or None."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def hint(name: str, valid: Iterable[str]) -> str:
    """Return the end of a message: the name that was probably meant, or the valid names if they are few."""
    names = sorted(set(valid))
    match = nearest(name, names)
    if match is not None:
        return f"; did you mean '{match}'?"
    if not names:
        return "; it takes no arguments"
    if len(names) <= LISTED_NAMES:
        return f"; valid: {', '.join(names)}"
    return ""


def located(origin: str | None) -> str:
    """Return the part of a message with the origin of a key: a file and line, or the command line."""
    return f" ({origin})" if origin else ""
