"""The interface between the converter and the implementations whose checkpoints it converts.

A source is one file in `ppdet.checkpoint.names` with one subclass of `Source`, decorated with `register_source`. It
states, mostly as tables, how its checkpoints are recognized, what its tensors are called in this project, how their
values are laid out, and which tensors are ignored for which reason. Everything else in this package (converting,
loading, downloading, comparing) uses sources through this interface only, so a new source is one new file.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np
from paddle.nn import Layer

from ppdet.utils.errors import UserError

__all__ = [
    "COMMON_IGNORED",
    "COUNTER_REASON",
    "Conversion",
    "Source",
    "find_source",
    "ignore_reason",
    "published_hosts",
    "register_source",
    "registered_sources",
]

Rules = tuple[tuple[str, str], ...]
"""Pairs of a regular expression, matched from the start of a name, and a text."""

COUNTER_REASON = "a counter that nothing reads"
_NO_COUNTERPART = "no counterpart in this project"
COMMON_IGNORED: Rules = (
    (r".*num_batches_tracked$", COUNTER_REASON),
    (r"(backbone\.)?fc\.(weight|bias)$", "the classifier of ImageNet"),
)
"""Tensors that no model of this project has, whatever the source, and why."""


@dataclass
class Conversion:
    """What became of the tensors of a checkpoint.

    Attributes:
        arrays: the arrays in this project's layout, by this project's names.
        sources: for every array that comes from the checkpoint, its name there, by this project's name.
        left: names in the checkpoint of the tensors that were not converted, with the reason.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Source:
    """An implementation whose checkpoints can be converted. Subclasses fill in the tables and, if needed, the hooks.

    Attributes:
        description: the models that are converted, for the message about an unknown checkpoint.
        notice: log message about a file of this source that is converted while being loaded.
        signature: regular expressions; a checkpoint is recognized if each of them matches the start of some name.
        rules: regular expressions and replacements (as in `re.sub`) that map names of the source to names of this
            project; the first that matches is used.
        ignored: regular expressions of names without a counterpart, and the reason why they are ignored.
        prefixes: prefixes that wrappers add to every name; they are removed before anything else.
        native: the names are this project's, so that there is nothing to convert.
        needs_model: values depend on the model, so that a file cannot be converted without one.
        hosts: hosts of published files whose names end with the first eight digits of their SHA-256.
        canaries: a few names of the source and what they have to become. The tests check them for every source, so that
            a change of a table, or another source with a similar signature, does not go unnoticed.
    """

    description: ClassVar[str] = ""
    notice: ClassVar[str] = ""
    signature: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[Rules] = ()
    ignored: ClassVar[Rules] = COMMON_IGNORED
    prefixes: ClassVar[tuple[str, ...]] = ("module.",)
    native: ClassVar[bool] = False
    needs_model: ClassVar[bool] = False
    hosts: ClassVar[tuple[str, ...]] = ()
    canaries: ClassVar[Mapping[str, str]] = {}

    def recognizes(self, names: Iterable[str]) -> bool:
        """Whether a checkpoint with these names is one of this source."""
        plain = [self.plain_name(name) for name in names]
        return all(any(re.match(pattern, name) for name in plain) for pattern in self.signature)

    def plain_name(self, name: str) -> str:
        """Return a name without the prefix of a wrapper."""
        return next((name[len(prefix) :] for prefix in self.prefixes if name.startswith(prefix)), name)

    def check(self, names: Collection[str]) -> None:
        """Refuse checkpoints of this source that cannot be converted.

        Args:
            names: the names in the checkpoint, without prefixes.

        Raises:
            UserError: the checkpoint has an unsupported layout; the message names it and the remedy.
        """

    def renamer(self, names: Collection[str]) -> Callable[[str], str | None]:
        """Return the function that maps a name to this project's, or to None if there is no counterpart.

        Args:
            names: the names in the checkpoint, without prefixes.
        """
        return lambda name: first_replacement(self.rules, name)

    def values(self, model: Layer | None, whole: bool) -> Callable[[str, np.ndarray], np.ndarray]:
        """Return the function that brings the array of a name (without prefix) to this project's layout.

        Args:
            model: the model that the weights are for; None where only names are needed.
            whole: the checkpoint has to be of exactly this architecture; otherwise a related one is good enough.

        Raises:
            UserError: the checkpoints of this source are not for this model.
        """
        return lambda name, array: array

    def complete(self, result: Conversion) -> None:
        """Add the arrays that this project's models have and the source's do not."""

    def reason(self, name: str) -> str:
        """Return the reason why a name without prefix is not converted."""
        return ignore_reason(name, self.ignored) or _NO_COUNTERPART

    def convert(self, state: Mapping[str, np.ndarray], model: Layer | None = None, whole: bool = True) -> Conversion:
        """Convert the tensors of a checkpoint of this source.

        Args:
            state: the arrays by their names in the checkpoint.
            model: the model that the weights are for. Required if `needs_model`.
            whole: see `values`.

        Returns:
            Views of the checkpoint's arrays wherever values stay the same.

        Raises:
            UserError: the checkpoint has an unsupported layout, is not for this model, or two of its tensors have the
                same counterpart.
        """
        plain_names = {name: self.plain_name(name) for name in state}
        self.check(plain_names.values())
        rename, convert_value = self.renamer(plain_names.values()), self.values(model, whole)
        result = Conversion()
        for name, plain in plain_names.items():
            own_name = rename(plain)
            if own_name is None:
                result.left[name] = self.reason(plain)
            elif own_name in result.arrays:
                raise UserError(f"the checkpoint's '{name}' and '{result.sources[own_name]}' both mean {own_name}")
            else:
                result.arrays[own_name] = convert_value(plain, state[name])
                result.sources[own_name] = name
        self.complete(result)
        return result

    def coverage(self, names: Iterable[str]) -> int:
        """Return how many of the names have a counterpart or are ignored for a stated reason."""
        plain = [self.plain_name(name) for name in names]
        rename = self.renamer(plain)
        return sum(rename(name) is not None or ignore_reason(name, self.ignored) is not None for name in plain)


def first_replacement(rules: Rules, name: str) -> str | None:
    """Apply the first rule that matches the start of a name; None if there is none."""
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return None


def ignore_reason(name: str, ignored: Rules = COMMON_IGNORED) -> str | None:
    """Return why a name is ignored, None if it is not."""
    return next((reason for pattern, reason in ignored if re.match(pattern, name)), None)


_SOURCES: dict[str, Source] = {}

SourceClass = TypeVar("SourceClass", bound=type[Source])


def register_source(cls: SourceClass) -> SourceClass:
    """Class decorator: make a source known under the name of its module.

    Raises:
        ValueError: the class lacks a signature, a description or canaries, or the module has another source.
    """
    name = cls.__module__.rpartition(".")[2]
    for attribute in ("signature", "description", "canaries"):
        if not getattr(cls, attribute):
            raise ValueError(f"{cls.__module__}.{cls.__qualname__} lacks '{attribute}'")
    known = _SOURCES.get(name)
    if known is not None and type(known).__qualname__ != cls.__qualname__:
        raise ValueError(f"{cls.__module__} registers two sources; give each a file of its own")
    _SOURCES[name] = cls()
    return cls


def registered_sources() -> dict[str, Source]:
    """Return every source by the name of its file in `ppdet.checkpoint.names`, in alphabetical order."""
    from ppdet.checkpoint import names

    _import_modules(tuple(names.__path__))
    return dict(sorted(_SOURCES.items()))


@functools.cache
def _import_modules(folders: tuple[str, ...]) -> None:
    for module in pkgutil.iter_modules(folders):
        importlib.import_module(f"ppdet.checkpoint.names.{module.name}")


def find_source(names: Collection[str]) -> Source | None:
    """Return the source of a checkpoint with these names, None if it is unknown.

    Signatures may overlap, as many implementations share the names of a ResNet. Of the sources that recognize a
    checkpoint, the one that accounts for most of its names is chosen, and a native one only if there is no other.
    """
    sources = [source for source in registered_sources().values() if source.recognizes(names)]
    return max(sources, key=lambda source: (not source.native, source.coverage(names)), default=None)


def published_hosts() -> frozenset[str]:
    """Return the hosts of all sources whose file names end with the first eight digits of the SHA-256."""
    return frozenset(host for source in registered_sources().values() for host in source.hosts)
