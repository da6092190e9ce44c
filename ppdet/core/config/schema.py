"""Validation of a configuration against the constructors that it configures, before anything is built."""

from __future__ import annotations

import inspect
import typing
from typing import Annotated, Any

from ppdet.core.config.errors import ConfigError, hint, located
from ppdet.core.config.faults import find_fault
from ppdet.core.config.keys import DATASETS, RUNTIME_KEYS, check_obsolete, explain_ineffective
from ppdet.core.config.node import Config, ConfigDict, Descriptor
from ppdet.core.config.ranges import Constraint, Provides
from ppdet.core.config.types import alternatives, element_of, show
from ppdet.core.registry import ClassInfo, class_info, is_registered, registered_names

__all__ = ["RUNTIME_KEYS", "check_arguments", "check_operations", "check_reference", "validate"]


def validate(config: Config) -> None:
    """Check every key, class name, type and range of a configuration.

    Raises:
        ConfigError: the first mistake, with its key, its origin and the nearest valid name.
    """
    infos = [class_info(name) for name in registered_names()]
    shared = {name: info.annotations.get(name, Any) for info in infos for name in info.shared}
    for key, value in config.items():
        origin = config.origin(key)
        if is_registered(key):
            check_arguments(class_info(key), value, key, origin)
        elif key in DATASETS:
            check_reference(value, key, origin, annotation=DATASETS[key])
        elif key in RUNTIME_KEYS:
            _check_value(value, RUNTIME_KEYS[key], key, origin)
        elif key in shared:
            _check_value(value, shared[key], key, origin)
        elif not explain_ineffective(key, value, origin):
            check_obsolete(key, origin)
            valid = [*RUNTIME_KEYS, *DATASETS, *shared, *(info.name for info in infos)]
            raise ConfigError(f"unknown key '{key}'{located(origin)}{hint(key, valid)}")
    if config.get("architecture") is not None:
        _check_architecture(config["architecture"], config.origin("architecture"))


def _check_architecture(name: str, origin: str | None) -> None:
    whole = {known for known in registered_names() if _is_whole_model(class_info(known))}
    if not _is_whole_model(class_info(name, "architecture", origin)):
        raise ConfigError(f"'architecture' takes a whole model, not the part {name}{located(origin)}{hint('', whole)}")


def _is_whole_model(info: ClassInfo) -> bool:
    return getattr(info.cls, "__category__", None) == "architecture"


def check_arguments(info: ClassInfo, section: Any, path: str, origin: str | None = None) -> None:
    """Check names, types and ranges of the arguments in a section; None is an empty section.

    Args:
        info: the class whose constructor takes the arguments.
        section: mapping of arguments. Arguments in ``__inject__`` may name classes.
        path: dotted key of the section, for messages.
        origin: where the section was written.

    Raises:
        ConfigError: not a mapping, an unknown argument or class, or a value of the wrong type or out of range.
    """
    if section is None:
        return
    if not isinstance(section, dict):
        raise ConfigError(f"'{path}' takes a mapping of arguments, got {show(section)}{located(origin)}")
    for key, value in section.items():
        where = (section.written(key) if isinstance(section, ConfigDict) else None) or f"{path}.{key}"
        place = _origin(section, key) or origin
        if key not in info.parameters:
            if info.open_ended:
                continue
            raise ConfigError(f"unknown key '{where}'{located(place)}{_hint_for_key(info, str(key))}")
        annotation = info.annotations.get(key, Any)
        if key in info.inject:
            if not _is_default(value, info.parameters[key]):
                check_reference(value, where, place, info.inject[key], annotation)
        elif key in info.operations:
            check_operations(value, where, place)
        else:
            _check_nested(value, where, place)
            if not _is_call(value) and not _is_default(value, info.parameters[key]):
                _check_value(value, annotation, where, place)


def _hint_for_key(info: ClassInfo, key: str) -> str:
    """Name the classes that extend this one by the key, or else the most similar key."""
    known = (class_info(name) for name in registered_names())
    extended = [
        candidate.name for candidate in known if issubclass(candidate.cls, info.cls) and key in candidate.parameters
    ]
    return f"; it belongs to {' and '.join(extended)}" if extended else hint(key, info.parameters)


def check_reference(
    value: Any, path: str, origin: str | None = None, default: str | None = None, annotation: Any = Any
) -> None:
    """Check a value that describes an object: class name, mapping with ``name``, tagged call, or a list of these.

    Args:
        value: the value; built objects are accepted.
        path: dotted key, for messages.
        origin: where the value was written.
        default: class of a mapping without ``name``; if None, such a mapping is plain data.
        annotation: of the parameter; it determines whether null or a list is valid, and which classes are.

    Raises:
        ConfigError: not a reference, an unknown or unsuitable class, or arguments that the class does not take.
    """
    kinds = [typing.get_origin(choice) or choice for choice in alternatives(annotation)]
    if value is None:
        if Any not in kinds and type(None) not in kinds:
            raise _no_reference(value, path, origin)
    elif isinstance(value, str):
        _check_class(class_info(value, f"class for '{path}':", origin), annotation, path, origin)
    elif isinstance(value, (list, tuple)):
        if Any not in kinds and element_of(annotation) is Any:
            raise _no_reference(value, path, origin)
        for index, item in enumerate(value):
            check_reference(item, f"{path}.{index}", origin, default, element_of(annotation))
    elif isinstance(value, dict) and (default is not None or "name" in value):
        name = value.get("name", default)
        if not isinstance(name, str):
            raise ConfigError(f"'{path}.name' takes the name of a class, got {show(name)}{located(origin)}")
        place = _origin(value, "name") or origin
        info = class_info(name, f"class for '{path}':", place)
        _check_class(info, annotation, path, place)
        arguments = ConfigDict()
        for key, item in value.items():
            if key != "name":
                arguments.put(key, item, _origin(value, key))
        check_arguments(info, arguments, path, origin)
    elif isinstance(value, Descriptor):
        _check_nested(value, path, origin)
        _check_class(class_info(value.class_name), annotation, path, value.origin or origin)
    elif isinstance(value, (bool, int, float)) or (isinstance(value, dict) and Any not in kinds):
        raise _no_reference(value, path, origin)
    else:
        _check_nested(value, path, origin)


def _no_reference(value: Any, path: str, origin: str | None) -> ConfigError:
    what = "a 'name' in its mapping" if isinstance(value, dict) else "the name of a class or a mapping of its arguments"
    return ConfigError(f"'{path}' takes {what}, got {show(value)}{located(origin)}")


def check_operations(entries: Any, path: str, origin: str | None = None) -> None:
    """Check a list of operations such as ``- Resize: {target_size: [800, 1333]}``.

    Raises:
        ConfigError: not such a list, an unknown operation, or arguments that the operation does not take.
    """
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(f"'{path}' takes a list of operations, got {show(entries)}{located(origin)}")
    for index, entry in enumerate(entries):
        where = f"{path}.{index}"
        if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
            ((name, arguments),) = entry.items()
            place = _origin(entry, name) or origin
            info = class_info(name, f"operation at '{where}':", place)
            check_arguments(info, arguments, f"{where}.{name}", place)
        elif isinstance(entry, (str, dict, Descriptor)):
            check_reference(entry, where, origin)
        elif isinstance(entry, (bool, int, float, list, type(None))):
            raise ConfigError(
                f"'{where}': an operation is written as 'Name: {{argument: value}}', got {show(entry)}{located(origin)}"
            )


def _check_class(info: ClassInfo, annotation: Any, path: str, origin: str | None) -> None:
    """Check that a parameter accepts the class chosen by a configuration."""
    demands = [choice for choice in alternatives(annotation) if choice not in (None, type(None))]
    if any(_is_class_for(info.cls, demand) for demand in demands):
        return
    names = [name for name in registered_names() for demand in demands if _is_class_for(class_info(name).cls, demand)]
    missing = sorted({name for demand in demands for name in _missing_attributes(info.cls, demand)})
    reason = f", which has no attribute {' and no '.join(missing)}" if missing else ""
    raise ConfigError(f"'{path}' cannot be {info.name}{reason}{located(origin)}{hint(info.name, names)}")


def _missing_attributes(cls: type, demand: Any) -> list[str]:
    """Return the attributes that a class of the right type lacks for a parameter; empty for other classes."""
    if typing.get_origin(demand) is not Annotated:
        return []
    base, *constraints = typing.get_args(demand)
    if not _is_class_for(cls, base):
        return []
    return [name for constraint in constraints if isinstance(constraint, Provides) for name in constraint.missing(cls)]


def _is_class_for(cls: type, demand: Any) -> bool:
    origin, arguments = typing.get_origin(demand), typing.get_args(demand)
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Constraint)]
        return _is_class_for(cls, arguments[0]) and all(
            limit.accepts(cls) for limit in limits if isinstance(limit, Provides)
        )
    if element_of(demand) is not Any:  # a section from which a list of objects is built
        return any(_is_class_for(cls, choice) for choice in alternatives(element_of(demand)))
    return demand is Any or not isinstance(demand, type) or issubclass(cls, demand)


def _check_nested(value: Any, path: str, origin: str | None) -> None:
    """Check the tagged calls anywhere inside a value."""
    if isinstance(value, Descriptor):
        place = value.origin or origin
        info = class_info(value.class_name, f"tag at '{path}':", place)
        check_arguments(info, value.arguments, path, place)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_nested(item, f"{path}.{index}", origin)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_nested(item, f"{path}.{key}", _origin(value, key) or origin)


def _is_call(value: Any) -> bool:
    """Return whether the value is a deferred call, whose result has an unknown type."""
    if isinstance(value, (list, tuple)):
        return any(_is_call(item) for item in value)
    return isinstance(value, Descriptor)


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    """Return whether the value is a default of None, as in ``x: int = None``, which is not a mistake of the user."""
    return value is None and parameter.default is None


def _check_value(value: Any, annotation: Any, path: str, origin: str | None) -> None:
    """Check the type and the range of a value."""
    fault = find_fault(value, annotation)
    if fault is None:
        return
    for key in fault.keys:
        origin = (_origin(value, key) if isinstance(value, dict) else None) or origin
        path, value = f"{path}.{key}", value[int(key)] if isinstance(value, (list, tuple)) else value[key]
    raise ConfigError(fault.template.format(f"'{path}'", what=fault.what) + located(origin))


def _origin(section: dict, key: str) -> str | None:
    return section.origin(key) if isinstance(section, ConfigDict) else None
