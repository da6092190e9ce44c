"""Does a value from YAML fit a constructor's annotation?"""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Any, Union

__all__ = ["describe", "matches"]

_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_UNIONS = (Union, getattr(types, "UnionType", Union))


def matches(value: Any, annotation: Any) -> bool:
    """Return whether ``value`` fits ``annotation``.

    Checked are int, float, bool, str, None, Any, lists, tuples, mappings, Literal and unions of them, elements
    included. Whatever else an annotation says is taken to fit: the constructor decides. An integer fits float,
    a bool fits neither int nor float, a list fits a tuple (YAML has no tuples).
    """
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return any(matches(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    base = origin or annotation
    if base in _LISTS:
        return isinstance(value, (list, tuple)) and _elements_match(value, base, arguments)
    if base in _MAPPINGS:
        return isinstance(value, dict) and (
            len(arguments) != 2 or all(matches(item, arguments[1]) for item in value.values())
        )
    return True


def _elements_match(value: Any, base: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if base is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return len(value) == len(arguments) and all(map(matches, value, arguments))
    return all(matches(item, arguments[0]) for item in value)


def describe(annotation: Any) -> str:
    """Return an annotation in a user's words."""
    if annotation is None:
        return "null"
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(describe(choice) for choice in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    base = origin or annotation
    if base in _LISTS:
        if base is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)} ({', '.join(describe(item) for item in arguments)})"
        return f"a list of ({describe(arguments[0])})" if arguments else "a list"
    if base in _MAPPINGS:
        return "a mapping of keys"
    return getattr(annotation, "__name__", str(annotation))
