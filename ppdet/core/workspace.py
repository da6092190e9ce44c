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

from ppdet.core.config.errors import ConfigError, located
from ppdet.core.config.merge import merge_into
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone, from_plain
from ppdet.core.config.schema import check_arguments, validate
from ppdet.core.config.yaml_io import dump_yaml, read_config_file
from ppdet.core.registry import ClassInfo, class_info, is_registered, register, registered, serializable

__all__ = [
    "Config",
    "ConfigDict",
    "ConfigError",
    "Descriptor",
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
    validate(config)
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
    validate(trial)
    target.clear()
    target.update(trial)
    target.__dict__.update(trial.__dict__)
    return target


def dump_config(config: Config | None = None) -> str:
    """Return a configuration (the current one by default) as YAML that ``load_config`` reads back."""
    return dump_yaml(_current if config is None else config)


def create(what: Any, **kwargs: Any) -> Any:
    """Build an object from the current configuration.

    The constructor gets, the later the stronger: the top-level values of its ``__shared__`` arguments, the section of
    its name, the arguments written beside ``name`` where ``what`` is a mapping or a tagged call, what ``from_config``
    returns, and ``kwargs``. Arguments in ``__inject__`` are created in turn; tagged calls inside any value are built.

    Args:
        what: name of a registered class; a class; a mapping with ``name``; a tagged call; or the top-level key of
            one of the latter two (``TrainDataset``). Anything else is an object already and comes back as it is.
        **kwargs: constructor arguments, and whatever the class's ``from_config`` takes.

    Raises:
        ConfigError: an unknown class or argument, a wrong type, an argument without value.
    """
    if isinstance(what, str) and not is_registered(what) and isinstance(_current.get(what), (dict, Descriptor)):
        return create(_current[what], **kwargs)
    if isinstance(what, (str, type)):
        return _construct(class_info(what), ConfigDict(), kwargs, what if isinstance(what, str) else what.__name__)
    if isinstance(what, Descriptor):
        return _construct(class_info(what.class_name, "tag", what.origin), what.arguments, kwargs, what.class_name)
    if isinstance(what, dict):
        call = _as_call(what, None)
        if not isinstance(call, Descriptor):
            raise ConfigError(f"cannot tell which class to build from {what!r}: it has no 'name'")
        return create(call, **kwargs)
    return what


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


def build_op(entry: Any, **kwargs: Any) -> Any:
    """Build one entry of a list of operations.

    Args:
        entry: ``{Resize: {target_size: [800, 1333]}}``, ``Permute``, or a tagged call.
        **kwargs: constructor arguments that the program knows.

    Raises:
        ConfigError: the entry has another form, or as ``create``.
    """
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, arguments),) = entry.items()
        origin = entry.origin(name) if isinstance(entry, ConfigDict) else None
        info = class_info(name, "operation", origin)
        if arguments is not None and not isinstance(arguments, dict):
            raise ConfigError(f"'{name}' takes a mapping of arguments, got {arguments!r}{located(origin)}")
        return _construct(info, from_plain(arguments or {}, origin), kwargs, name)
    if isinstance(entry, (str, dict, Descriptor)):
        return create(entry, **kwargs)
    raise ConfigError(f"an operation is written as 'Name: {{argument: value}}', got {entry!r}")


def import_packages() -> None:
    """Import the packages of the project whose classes configurations name, so that they are registered."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)


def _construct(info: ClassInfo, overrides: ConfigDict, kwargs: dict[str, Any], path: str) -> Any:
    own = _current.get(info.name)
    check_arguments(info, own, info.name, _current.origin(info.name))
    section = ConfigDict() if own is None else from_plain(own, None)
    merge_into(section, from_plain(overrides, None))
    check_arguments(info, section, path)
    values = _configured(info, section)
    if hasattr(info.cls, "from_config"):
        taken = _taken_by_from_config(info, kwargs)
        derived = info.cls.from_config(_view(info, values, kwargs), **taken)
        direct = {key: item for key, item in kwargs.items() if key in info.parameters or key not in taken}
        kwargs = {**derived, **direct}
    arguments = {key: _build_argument(item, key in info.inject) for key, item in values.items() if key not in kwargs}
    arguments.update(kwargs)
    for name, parameter in info.parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"'{path}.{name}' must be set{located(_current.filename)}")
    return info.cls(**arguments)


def _taken_by_from_config(info: ClassInfo, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments given to ``create`` which the class's ``from_config`` takes."""
    parameters = inspect.signature(info.cls.from_config).parameters  # type: ignore[attr-defined]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return kwargs
    return {key: item for key, item in kwargs.items() if key in parameters}


def _configured(info: ClassInfo, section: ConfigDict) -> dict[str, Any]:
    """Return the arguments which the configuration sets, objects to inject as calls; constructor defaults left out."""
    values: dict[str, Any] = {}
    for name in info.shared:
        if name in _current:
            values[name] = clone(_current[name])
    for name, default in info.inject.items():
        if default is not None:
            values[name] = Descriptor(default)
    for name, value in section.items():
        values[name] = _as_call(value, info.inject[name]) if name in info.inject else clone(value)
    return values


def _view(info: ClassInfo, values: dict[str, Any], kwargs: dict[str, Any]) -> ConfigDict:
    """Return what ``from_config`` sees: constructor defaults under the configured values under explicit arguments."""
    view = ConfigDict()
    for name, parameter in info.parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            view[name] = clone(parameter.default)
    view.update({name: clone(value) for name, value in values.items()})
    view.update({name: value for name, value in kwargs.items() if name in info.parameters})
    return view


def _as_call(value: Any, default: str | None) -> Any:
    """Return a class name or mapping as the constructor call it stands for; other values as they are."""
    if isinstance(value, str):
        return Descriptor(value)
    if isinstance(value, dict):
        arguments = from_plain(value, None)
        name = arguments.pop("name", default)
        return value if name is None else Descriptor(name, arguments)
    if isinstance(value, (list, tuple)):
        return [_as_call(item, default) for item in value]
    return clone(value)


def _build_argument(value: Any, injected: bool) -> Any:
    if injected and isinstance(value, (list, tuple)):
        return [create(item) if isinstance(item, Descriptor) else build(item) for item in value]
    return build(value)
