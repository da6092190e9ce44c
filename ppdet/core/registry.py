"""The registry of the classes that a configuration can name, with their constructor parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ppdet.core.annotations import evaluated
from ppdet.core.config.errors import ConfigError, ParameterError, hint, located
from ppdet.core.config.faults import find_fault

__all__ = [
    "ClassInfo",
    "checks_arguments",
    "class_info",
    "is_registered",
    "register",
    "registered",
    "registered_names",
    "serializable",
]

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class ClassInfo:
    """A registered class and its constructor.

    Attributes:
        cls: the class.
        parameters: constructor parameters by name, except ``self``, ``*args`` and ``**kwargs``.
        annotations: evaluated annotations of the parameters that have one.
        open_ended: whether the constructor takes ``**kwargs``, so that any name is valid.
        inject: argument -> name of the class to build if the configuration does not set it (None: no default).
        shared: arguments that default to the top-level key of the same name.
        operations: arguments that are lists of operations, see :func:`ppdet.core.workspace.build_op`.
    """

    cls: type
    parameters: dict[str, inspect.Parameter]
    annotations: dict[str, Any]
    open_ended: bool
    inject: dict[str, str | None] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Registered name of the class."""
        return self.cls.__name__


_REGISTRY: dict[str, ClassInfo] = {}


def register(cls: T) -> T:
    """Class decorator: register the class under its name, so that configurations can refer to it.

    The class may define ``__inject__`` (names of constructor arguments that are built from the configuration, or a
    dict {argument: name of the default class, or None}), ``__shared__`` (names of arguments that default to top-level
    keys), ``__operations__`` (names of arguments that are lists of operations, ``- Resize: {…}``), and a classmethod
    ``from_config(section, **kwargs) -> dict`` that returns further constructor arguments.
    Every call of the constructor checks its arguments against the annotations (see
    :mod:`ppdet.core.config.ranges`) and raises ParameterError, a ValueError, for an invalid one.

    Raises:
        ValueError: the name belongs to another class, or ``__inject__``, ``__shared__`` or ``__operations__`` contain
            a name that is not a constructor argument.
    """
    known = _REGISTRY.get(cls.__name__)
    if known is not None and (known.cls.__module__, known.cls.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"{cls.__module__}.{cls.__qualname__}: the name is already registered by {known.cls.__module__}"
        )
    info = _describe(cls)
    checks_arguments(cls)
    _REGISTRY[cls.__name__] = info
    return cls


def serializable(cls: T) -> T:
    """Class decorator: like ``register``; marks a class that configurations construct by a tag, ``!Name {…}``."""
    return register(cls)


def is_registered(name: str) -> bool:
    """Return whether a class of that name is registered."""
    return name in _REGISTRY


def registered_names() -> list[str]:
    """Return the names of all registered classes."""
    return sorted(_REGISTRY)


def class_info(name_or_cls: str | type, what: str = "class", origin: str | None = None) -> ClassInfo:
    """Look up a class by name, or describe a class, which need not be registered.

    Args:
        name_or_cls: the name, or the class itself.
        what: description of the name in the message (``class``, ``class for 'head':``).
        origin: where the name was written.

    Raises:
        ConfigError: there is no such class; the message suggests the nearest name.
    """
    if isinstance(name_or_cls, type):
        info = _REGISTRY.get(name_or_cls.__name__)
        return info if info is not None and info.cls is name_or_cls else _describe(name_or_cls)
    if name_or_cls not in _REGISTRY:
        raise ConfigError(f"unknown {what} '{name_or_cls}'{located(origin)}{hint(name_or_cls, _REGISTRY)}")
    return _REGISTRY[name_or_cls]


def registered(name: str) -> type:
    """Return the class registered as ``name``.

    Raises:
        ConfigError: there is no such class; the message suggests the nearest name.
    """
    return class_info(name).cls


def checks_arguments(cls: T) -> T:
    """Class decorator: let the constructor check its arguments, as those of all registered classes do.

    A constructor that already does so (inherited, or registered twice) is not changed. A ParameterError raised by the
    check or by the constructor gets the name of the class as its ``owner``.
    """
    constructor, info = cls.__init__, _describe(cls)  # type: ignore[misc]
    if constructor is object.__init__ or hasattr(constructor, "checks_arguments"):
        return cls
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            _check_values(info, signature.bind(self, *args, **kwargs).arguments)
            constructor(self, *args, **kwargs)
        except ParameterError as error:
            error.owner = error.owner or type(self).__name__
            raise

    checked.checks_arguments = True  # type: ignore[attr-defined]
    cls.__init__ = checked  # type: ignore[misc]
    return cls


def _check_values(info: ClassInfo, arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        annotation = info.annotations.get(name)
        if annotation is None or name in info.inject or (value is None and info.parameters[name].default is None):
            continue
        fault = find_fault(
            value.tolist() if hasattr(value, "tolist") else value, annotation
        )  # arrays are checked like lists
        if fault is not None:
            raise ParameterError(fault.template, ".".join((name, *fault.keys)), what=fault.what)


def _describe(cls: type) -> ClassInfo:
    constructor = cls.__init__  # type: ignore[misc]
    parameters: dict[str, inspect.Parameter] = {}
    open_ended = False
    if constructor is not object.__init__:
        for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                parameters[parameter.name] = parameter
    inject = getattr(cls, "__inject__", ())
    inject = dict(inject) if isinstance(inject, dict) else dict.fromkeys(inject)
    shared = tuple(getattr(cls, "__shared__", ()))
    operations = tuple(getattr(cls, "__operations__", ()))
    for name in (*inject, *shared, *operations):
        if name not in parameters and not open_ended:
            raise ValueError(f"{cls.__qualname__}: '{name}' of __inject__ or __shared__ is no constructor argument")
    annotations = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    annotations = evaluated(annotations, getattr(constructor, "__module__", ""))
    return ClassInfo(cls, parameters, annotations, open_ended, inject, shared, operations)
