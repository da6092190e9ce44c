"""From a configuration file to objects: ``load_config``, ``merge_config``, ``create``.

A configuration holds a section for each class that it configures (``RPNHead: {…}``), settings of the run
(``epoch: 12``) and values that several classes share (``num_classes: 80``). ``create(config, "RPNHead")`` calls the
constructor with the values of the section; arguments that are objects themselves are created in the same way. Building
never modifies the configuration.

PaddleDetection's form ``create(config.architecture)`` names no configuration. It means the one entered by
``with config.as_current():``, or else the only one that is loaded (see :mod:`ppdet.core.config.current`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, overload

from ppdet.core.build import build_object, build_operation
from ppdet.core.config.current import implicit_config, loaded_configs
from ppdet.core.config.errors import ConfigError, ParameterError
from ppdet.core.config.merge import merge_into
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone, from_plain
from ppdet.core.config.paddledetection import require_translated, translate
from ppdet.core.config.schema import validate as validate_config
from ppdet.core.config.types import show
from ppdet.core.config.yaml_io import dump_yaml, read_config_file
from ppdet.core.plugins import import_plugins
from ppdet.core.registry import register, registered, serializable

__all__ = [
    "Config",
    "ConfigDict",
    "ConfigError",
    "Descriptor",
    "ParameterError",
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
"""Packages whose import registers the classes that a configuration may name."""


def load_config(path: str, plugins: Iterable[str] = ()) -> Config:
    """Read a configuration file and its ``_BASE_`` files, and check the result.

    Args:
        path: YAML file. ``_BASE_`` names one file or a list of files, relative to the folder of the file. Later files
            of the list override earlier ones, and the file itself overrides all of them.
        plugins: Python files to import first, see :func:`ppdet.core.plugins.import_plugins`.

    Returns:
        A new configuration, independent of those loaded before.

    Raises:
        ConfigError: a missing file, an unknown key or class, or a value of the wrong type.
    """
    layers = read_config_file(str(path))  # before the imports, so that a wrong path is reported at once
    import_packages()
    import_plugins(plugins)
    config = Config()
    config.__dict__["filename"] = str(path)
    for layer in layers:
        merge_into(config, layer)
        translate(config, layer)
    require_translated(config)
    validate_config(config)
    loaded_configs().add(config)
    return config


def merge_config(overrides: Mapping[str, Any], config: Config | None = None) -> Config:
    """Lay overrides (as ``ArgsParser`` collects them from ``-o``) over a configuration.

    Args:
        overrides: nested mapping.
        config: the configuration to change; without it, the one that :func:`current_config` returns.

    Returns:
        The same configuration, changed in place; it is left unchanged if an override is wrong.

    Raises:
        ConfigError: an unknown key or class, a value of the wrong type, or several configurations that could be meant.
    """
    target = _implicit("merge_config(overrides)", "merge_config(overrides, config)") if config is None else config
    import_packages()
    trial = clone(target)
    layer = from_plain(overrides, COMMAND_LINE)
    merge_into(trial, layer)
    translate(trial, layer)
    require_translated(trial)
    validate_config(trial)
    target.clear()
    target.update(trial)
    target.__dict__.update(trial.__dict__)
    return target


def dump_config(config: Config | None = None) -> str:
    """Return a configuration (by default that of :func:`current_config`) as YAML that ``load_config`` reads back."""
    return dump_yaml(_implicit("dump_config()", "dump_config(config)") if config is None else config)


def current_config() -> Config:
    """Return the configuration meant by calls that name none; an empty one if nothing has been loaded.

    Raises:
        ConfigError: several configurations are loaded, and none was entered by ``with config.as_current():``.
    """
    return _implicit("current_config()", "the configuration itself")


def _implicit(call: str, remedy: str) -> Config:
    config = implicit_config(call, remedy)
    if config is None:
        config = Config()
        loaded_configs().add(config)
    return config


@overload
def create(config: Config, what: Any, /, *, implied: Mapping[str, Any] | None = None, **kwargs: Any) -> Any: ...


@overload
def create(what: Any, /, *, implied: Mapping[str, Any] | None = None, **kwargs: Any) -> Any: ...


def create(first: Any, /, *rest: Any, implied: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """Build an object: ``create(config, what, …)``, or ``create(what, …)`` as in PaddleDetection.

    The constructor gets, from the weakest source to the strongest: the top-level values of its ``__shared__``
    arguments, the section of its name, the arguments given together with ``name`` if ``what`` is a mapping or a tagged
    call, the result of ``from_config``, and ``kwargs``. Arguments in ``__inject__`` and ``__operations__`` are built in
    turn, as are tagged calls inside any value.

    Args:
        config: the configuration to build from. Without it: the one that ``what`` carries if it comes from the mapping
            that ``from_config`` receives, or else that of :func:`current_config`.
        what: the name of a registered class; a class; a mapping with ``name``; a tagged call; or the top-level key of
            one of the latter two (``TrainDataset``). Any other value is taken for a finished object and returned.
        implied: constructor arguments that follow from other parts of the model. They act like ``kwargs``, but a
            configuration that sets one of them to another value is refused, because its value could have no effect.
        **kwargs: constructor arguments, and arguments of the class's ``from_config``.

    Raises:
        ConfigError: an unknown class or argument, a value of the wrong type, a missing argument, arguments that the
            constructor cannot use (see `ParameterError`), or several configurations that could be meant.
    """
    if isinstance(first, Config) and len(rest) == 1:
        return build_object(first, rest[0], implied or {}, kwargs)
    if rest or isinstance(first, Config):
        raise TypeError("create takes the configuration and what to build, or only what to build")
    if isinstance(first, Descriptor) and first.config is not None:
        return build_object(first.config, first, implied or {}, kwargs)
    if not isinstance(first, (str, type, dict, Descriptor)):
        return first
    shown = show(first.__name__ if isinstance(first, type) else first)
    config = _implicit(f"create({shown})", f"create(config, {shown})")
    return build_object(config, first, implied or {}, kwargs)


def build_op(entry: Any, path: str | None = None, config: Config | None = None, **kwargs: Any) -> Any:
    """Build one entry of a list of operations.

    Args:
        entry: ``{Resize: {target_size: [800, 1333]}}``, ``Permute``, or a tagged call; a built operation is returned
            unchanged.
        path: dotted key of the entry, for messages.
        config: configuration whose sections supply further arguments; without it, only the constructors' defaults do.
        **kwargs: further constructor arguments.

    Raises:
        ConfigError: the entry has another form, or see :func:`create`.
    """
    return build_operation(Config() if config is None else config, entry, path, kwargs)


def import_packages() -> None:
    """Import the packages whose classes configurations may name, so that these classes are registered."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)
