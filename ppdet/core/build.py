"""Building objects from a configuration that is passed explicitly; `ppdet.core.workspace` is the public interface."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ppdet.core.call import Call, as_call, bound
from ppdet.core.config.errors import ConfigError, ParameterError
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone, from_plain
from ppdet.core.config.schema import check_operations
from ppdet.core.registry import ClassInfo, class_info, is_registered

__all__ = ["build_object", "build_operation", "build_value"]


def build_object(config: Config, what: Any, implied: Mapping[str, Any], kwargs: dict[str, Any]) -> Any:
    """Build an object; see :func:`ppdet.core.workspace.create`.

    Raises:
        ConfigError: see there.
    """
    path = None
    if isinstance(what, str) and not is_registered(what) and isinstance(config.get(what), (dict, Descriptor)):
        path, what = what, config[what]
    if isinstance(what, dict):
        what = as_call(what, None)
        if not isinstance(what, Descriptor):
            raise ConfigError(f"cannot tell which class to build from {what!r}: it has no 'name'")
    if isinstance(what, Descriptor):
        info = class_info(what.class_name, "tag" if what.origin else "class", what.origin)
        call = Call(info, what.arguments, what.path or path or info.name, config)
    elif isinstance(what, (str, type)):
        info = class_info(what)
        call = Call(info, ConfigDict(), info.name, config)
    else:
        return what
    return _construct(call, implied, kwargs)


def build_value(config: Config, value: Any) -> Any:
    """Return a deep copy of a value in which every deferred constructor call has been built.

    Raises:
        ConfigError: see :func:`ppdet.core.workspace.create`.
    """
    if isinstance(value, Descriptor):
        return build_object(config, value, {}, {})
    if isinstance(value, ConfigDict):
        copied = clone(value)
        for key, item in value.items():
            copied[key] = build_value(config, item)
        return copied
    if isinstance(value, dict):
        return {key: build_value(config, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(build_value(config, item) for item in value)
    return value


def build_operation(config: Config, entry: Any, path: str | None, kwargs: dict[str, Any]) -> Any:
    """Build one entry of a list of operations; see :func:`ppdet.core.workspace.build_op`.

    Raises:
        ConfigError: see there.
    """
    check_operations([entry], path or "operations")
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, arguments),) = entry.items()
        call = Call(class_info(name), from_plain(arguments or {}, None), f"{path}.{name}" if path else name, config)
        return _construct(call, {}, kwargs)
    return build_object(config, as_call(entry, None, path), {}, kwargs)


def _construct(call: Call, implied: Mapping[str, Any], kwargs: dict[str, Any]) -> Any:
    section = call.section()
    values = call.values(section)
    call.require_agreement(section, implied)
    kwargs = {**implied, **kwargs}
    # Classes written for PaddleDetection call create("Name") in from_config and in their constructors.
    with call.config.as_current():
        try:
            if hasattr(call.info.cls, "from_config"):
                kwargs = _with_derived(call, section, values, kwargs)
            arguments = {name: _build_argument(call, name, item) for name, item in values.items() if name not in kwargs}
            arguments.update({name: _build_operations(call, name, item) for name, item in kwargs.items()})
            call.require_all(arguments)
            return call.info.cls(**arguments)
        except ParameterError as error:
            raise call.explained(error) from error


def _with_derived(call: Call, section: ConfigDict, values: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return ``kwargs`` with the arguments that the class's ``from_config`` derives."""
    info = call.info
    taken = _taken_by_from_config(info, kwargs)
    derived = info.cls.from_config(_view(call, values, kwargs), **taken)  # type: ignore[attr-defined]
    call.require_agreement(section, derived)
    direct = {key: item for key, item in kwargs.items() if key in info.parameters or key not in taken}
    return {**derived, **direct}


def _taken_by_from_config(info: ClassInfo, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``create`` that the class's ``from_config`` accepts."""
    parameters = inspect.signature(info.cls.from_config).parameters  # type: ignore[attr-defined]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return kwargs
    return {key: item for key, item in kwargs.items() if key in parameters}


def _view(call: Call, values: dict[str, Any], kwargs: dict[str, Any]) -> ConfigDict:
    """Return the mapping passed to ``from_config``: constructor defaults, configured values, explicit arguments.

    The later ones override the earlier ones. The deferred calls in it carry the configuration.
    """
    view = ConfigDict()
    for name, parameter in call.info.parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            view[name] = clone(parameter.default)
    view.update({name: bound(value, call.config) for name, value in values.items()})
    view.update({name: value for name, value in kwargs.items() if name in call.info.parameters})
    return view


def _build_argument(call: Call, name: str, value: Any) -> Any:
    if name in call.info.inject and isinstance(value, (list, tuple)):
        return [build_value(call.config, item) for item in value]
    return build_value(call.config, _build_operations(call, name, value))


def _build_operations(call: Call, name: str, value: Any) -> Any:
    """Return the argument ``name``, its operations built if it is a list of them."""
    if name not in call.info.operations or not isinstance(value, (list, tuple)):
        return value
    path = f"{call.path}.{name}"
    return [build_operation(call.config, entry, f"{path}.{index}", {}) for index, entry in enumerate(value)]
