"""Matching values from YAML against the annotations of constructors, and describing annotations in messages."""

from __future__ import annotations

import collections.abc
import math
import numbers
import types
import typing
from typing import Annotated, Any, Union

from ppdet.core.config.ranges import Constraint, Entries

__all__ = ["alternatives", "describe", "element_of", "matches", "show"]

_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
_UNIONS = (Union, getattr(types, "UnionType", Union))
_LARGEST = 2**63 - 1
"""Largest integer: Paddle and NumPy store integers as int64."""


def matches(value: Any, annotation: Any) -> bool:
    """Return whether ``value`` is valid for ``annotation``.

    int, float, bool, str, None, Any, lists, tuples, mappings, Literal and unions of them are checked, including their
    elements, as are the constraints of :mod:`ppdet.core.config.ranges`. Any other annotation accepts all values; the
    constructor has to check them. An integer is valid for float, a bool is valid neither for int nor for float, and a
    list is valid for a tuple, because YAML has no tuples. Infinity and NaN are not valid numbers, and a string must not
    contain a null character.
    """
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(int(value)) <= _LARGEST
    if annotation is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and _is_finite(value)
    if annotation is str:
        return isinstance(value, str) and "\0" not in value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return matches(value, arguments[0]) and all(
            _fulfils(value, limit) for limit in arguments[1:] if isinstance(limit, Constraint)
        )
    if origin in _UNIONS:
        return any(matches(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    base = origin or annotation
    if base in _LISTS:
        return isinstance(value, (list, tuple)) and _elements_match(value, base, arguments)
    if base in _MAPPINGS:
        return isinstance(value, collections.abc.Mapping) and (
            len(arguments) != 2 or all(matches(item, arguments[1]) for item in value.values())
        )
    return True


def _fulfils(value: Any, limit: Constraint) -> bool:
    if not limit.accepts(value):
        return False
    return not isinstance(limit, Entries) or all(matches(item, limit.types[key]) for key, item in value.items())


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _elements_match(value: Any, base: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if base is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return len(value) == len(arguments) and all(map(matches, value, arguments))
    return all(matches(item, arguments[0]) for item in value)


def describe(annotation: Any) -> str:
    """Describe an annotation in terms that users of a configuration understand."""
    if annotation is None:
        return "null"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        text = describe(arguments[0])
        for limit in arguments[1:]:
            text = limit.describe(text) if isinstance(limit, Constraint) else text
        return text
    if origin is None and annotation in _NAMES:
        return _NAMES[annotation]
    if origin in _UNIONS:
        return " or ".join(describe(choice) for choice in arguments)
    if origin is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(show(choice) for choice in arguments)
    base = origin or annotation
    if base in _LISTS:
        if base is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)} ({', '.join(describe(item) for item in arguments)})"
        return f"a list of ({describe(arguments[0])})" if arguments else "a list"
    if base in _MAPPINGS:
        return "a mapping of keys"
    return getattr(annotation, "__name__", str(annotation))


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in _UNIONS:
        return [choice for member in typing.get_args(annotation) for choice in alternatives(member)]
    return [annotation]


def element_of(annotation: Any) -> Any:
    """Return the annotation of the elements of a list; Any if it is unknown or no list is allowed."""
    for choice in alternatives(annotation):
        if typing.get_origin(choice) is Annotated:
            choice = typing.get_args(choice)[0]
        if (typing.get_origin(choice) or choice) in _LISTS and typing.get_args(choice):
            return typing.get_args(choice)[0]
    return Any


def show(value: Any) -> str:
    """Format a value for a message as YAML would, truncated to a readable length."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
