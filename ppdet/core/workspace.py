"""From a configuration file to objects: ``load_config``, ``merge_config``, ``create``.

A configuration has a section for each class that it configures (``RPNHead: {…}``), keys of the run (``epoch: 12``)
and keys which several classes share (``num_classes: 80``). ``create('RPNHead')`` calls the constructor with the
section's values; arguments which are objects themselves are created the same way. The process has one current
configuration, the one loaded last; building never writes into it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

from ppdet.core.call import Call, as_call
from ppdet.core.config.errors import ConfigError, ParameterError
from ppdet.core.config.merge import merge_into
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone, from_plain
from ppdet.core.config.schema import check_operations
from ppdet.core.config.schema import validate as validate_config
from ppdet.core.config.yaml_io import dump_yaml, read_config_file
from ppdet.core.registry import ClassInfo, class_info, is_registered, register, registered, serializable

__all__ = [
    "Config",
    "ConfigDict",
    "ConfigError",
    "Descriptor",
    "ParameterError",
    "build",
    "build_op",
    "create",
    "current_config",
    "dump_config",
    "load_config",
    "merge_config",
    "register",
    "registered",
    "serializable",
    "validate_config",
]

COMMAND_LINE = "command line"

_PACKAGES = ("ppdet.data", "ppdet.metrics", "ppdet.modeling", "ppdet.optimizer")
"""Importing these registers every class that a configuration may name."""

_current = Config()


def current_config() -> Config:
    """Return the configuration of this process: the one that ``load_config`` returned last, or an empty one."""
    return _current


def load_config(path: str) -> Config:
    """Read a configuration file over its ``_BASE_`` files, check it, and make it the current one.

    Args:
        path: YAML file; ``_BASE_`` names one file or a list of them, relative to the file's folder. Later files of
            the list override earlier ones, the file itself overrides all.

    Returns:
        A new configuration, with nothing in it from an earlier one.

    Raises:
        ConfigError: a missing file, an unknown key or class, a value of the wrong type.
    """
    global _current
    layers = read_config_file(str(path))  # a wrong path is answered at once, not after Paddle's import
    import_packages()
    config = Config()
    config.__dict__["filename"] = str(path)
    for layer in layers:
        merge_into(config, layer)
    validate_config(config)
    _current = config
    return config


def merge_config(overrides: Mapping[str, Any], config: Config | None = None) -> Config:
    """Lay overrides (as ``ArgsParser`` collects them from ``-o``) over a configuration.

    Args:
        overrides: nested mapping.
        config: what to change; the current configuration by default.

    Returns:
        That same configuration, changed in place; untouched where the overrides are wrong.

    Raises:
        ConfigError: an unknown key or class, a value of the wrong type.
    """
    target = _current if config is None else config
    import_packages()
    trial = clone(target)
    merge_into(trial, from_plain(overrides, COMMAND_LINE))
    validate_config(trial)
    target.clear()
    target.update(trial)
    target.__dict__.update(trial.__dict__)
    return target


def dump_config(config: Config | None = None) -> str:
    """Return a configuration (the current one by default) as YAML that ``load_config`` reads back."""
    return dump_yaml(_current if config is None else config)


def create(what: Any, implied: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """Build an object from the current configuration.

    The constructor gets, the later the stronger: the top-level values of its ``__shared__`` arguments, the section of
    its name, the arguments written beside ``name`` where ``what`` is a mapping or a tagged call, what ``from_config``
    returns, and ``kwargs``. Arguments in ``__inject__`` are created in turn; tagged calls inside any value are built.

    Args:
        what: name of a registered class; a class; a mapping with ``name``; a tagged call; or the top-level key of
            one of the latter two (``TrainDataset``). Anything else is an object already and comes back as it is.
        implied: constructor arguments that follow from other parts of the model. As ``kwargs``, but a configuration
            that sets one of them to something else is refused: its value could have no effect.
        **kwargs: constructor arguments, and whatever the class's ``from_config`` takes.

    Raises:
        ConfigError: an unknown class or argument, a wrong type, an argument without value, arguments that the
            constructor cannot use (see `ParameterError`).
    """
    path = None
    if isinstance(what, str) and not is_registered(what) and isinstance(_current.get(what), (dict, Descriptor)):
        path, what = what, _current[what]
    if isinstance(what, dict):
        what = as_call(what, None)
        if not isinstance(what, Descriptor):
            raise ConfigError(f"cannot tell which class to build from {what!r}: it has no 'name'")
    if isinstance(what, Descriptor):
        info = class_info(what.class_name, "tag" if what.origin else "class", what.origin)
        call = Call(info, what.arguments, what.path or path or info.name, _current)
    elif isinstance(what, (str, type)):
        info = class_info(what)
        call = Call(info, ConfigDict(), info.name, _current)
    else:
        return what
    return _construct(call, implied or {}, kwargs)


def build(value: Any) -> Any:
    """Return a value in which every tagged call, however deep, is built; lists and mappings are copies.

    Raises:
        ConfigError: as ``create``.
    """
    if isinstance(value, Descriptor):
        return create(value)
    if isinstance(value, ConfigDict):
        copied = clone(value)
        for key, item in value.items():
            copied[key] = build(item)
        return copied
    if isinstance(value, dict):
        return {key: build(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(build(item) for item in value)
    return value


def build_op(entry: Any, path: str | None = None, **kwargs: Any) -> Any:
    """Build one entry of a list of operations.

    Args:
        entry: ``{Resize: {target_size: [800, 1333]}}``, ``Permute``, or a tagged call; a built operation stays itself.
        path: dotted key of the entry, for messages.
        **kwargs: constructor arguments that the program knows.

    Raises:
        ConfigError: the entry has another form, or as ``create``.
    """
    check_operations([entry], path or "operations")
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, arguments),) = entry.items()
        call = Call(class_info(name), from_plain(arguments or {}, None), f"{path}.{name}" if path else name, _current)
        return _construct(call, {}, kwargs)
    return create(as_call(entry, None, path), **kwargs)


def import_packages() -> None:
    """Import the packages of the project whose classes configurations name, so that they are registered."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)


def _construct(call: Call, implied: Mapping[str, Any], kwargs: dict[str, Any]) -> Any:
    info, section = call.info, call.section()
    values = call.values(section)
    call.require_agreement(section, implied)
    kwargs = {**implied, **kwargs}
    try:
        if hasattr(info.cls, "from_config"):
            taken = _taken_by_from_config(info, kwargs)
            derived = info.cls.from_config(_view(info, values, kwargs), **taken)
            call.require_agreement(section, derived)
            direct = {key: item for key, item in kwargs.items() if key in info.parameters or key not in taken}
            kwargs = {**derived, **direct}
        arguments = {k: _build_argument(item, k in info.inject) for k, item in values.items() if k not in kwargs}
        arguments.update(kwargs)
        call.require_all(arguments)
        return info.cls(**arguments)
    except ParameterError as error:
        raise call.explained(error) from error


def _taken_by_from_config(info: ClassInfo, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments given to ``create`` which the class's ``from_config`` takes."""
    parameters = inspect.signature(info.cls.from_config).parameters  # type: ignore[attr-defined]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return kwargs
    return {key: item for key, item in kwargs.items() if key in parameters}


def _view(info: ClassInfo, values: dict[str, Any], kwargs: dict[str, Any]) -> ConfigDict:
    """Return what ``from_config`` sees: constructor defaults under the configured values under explicit arguments."""
    view = ConfigDict()
    for name, parameter in info.parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            view[name] = clone(parameter.default)
    view.update({name: clone(value) for name, value in values.items()})
    view.update({name: value for name, value in kwargs.items() if name in info.parameters})
    return view


def _build_argument(value: Any, injected: bool) -> Any:
    if injected and isinstance(value, (list, tuple)):
        return [create(item) if isinstance(item, Descriptor) else build(item) for item in value]
    return build(value)
