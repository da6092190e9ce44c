"""A constructor call described by a configuration: its arguments, with the key and the origin of each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppdet.core.config.errors import ConfigError, ParameterError, located
from ppdet.core.config.merge import merge_into
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone, from_plain
from ppdet.core.config.schema import check_arguments
from ppdet.core.config.types import show
from ppdet.core.registry import ClassInfo, class_info

__all__ = ["Call", "as_call", "bound"]


@dataclass(frozen=True)
class Call:
    """The call of a registered class's constructor.

    Attributes:
        info: the class.
        overrides: arguments written where the call is; they override the section of the class.
        path: dotted key of the call.
        config: contains the section of the class, and the shared keys.
    """

    info: ClassInfo
    overrides: ConfigDict
    path: str
    config: Config

    def section(self) -> ConfigDict:
        """Return the section of the class merged with the overrides, both checked.

        Raises:
            ConfigError: an unknown argument, a wrong type, or a value out of range.
        """
        own = self.config.get(self.info.name)
        check_arguments(self.info, own, self.info.name, self.config.origin(self.info.name))
        section = ConfigDict() if own is None else from_plain(own, None)
        merge_into(section, from_plain(self.overrides, None))
        check_arguments(self.info, section, self.path)
        return section

    def values(self, section: ConfigDict) -> dict[str, Any]:
        """Return the arguments that the configuration sets; arguments to inject are deferred calls.

        Args:
            section: see :meth:`section`.
        """
        values: dict[str, Any] = {}
        for name in self.info.shared:
            if name in self.config:
                values[name] = clone(self.config[name])
        for name, default in self.info.inject.items():
            if default is not None:
                values[name] = Descriptor(default)
        for name, value in section.items():
            if name in self.info.inject:
                values[name] = as_call(value, self.info.inject[name], self.key(name)[0])
            else:
                values[name] = clone(value)
        return values

    def key(self, parameter: str) -> tuple[str, str | None]:
        """Return the dotted key that sets a parameter, and where it was written (None for a default).

        Args:
            parameter: a name; with dots, a parameter of a part (``bbox_assigner.cascade_iou``).
        """
        name, _, rest = parameter.partition(".")
        own = self.config.get(self.info.name)
        if rest:
            part = self._part(name)
            return (f"{self.key(name)[0]}.{rest}", None) if part is None else part.key(rest)
        if name in self.overrides:
            return self.overrides.written(name) or f"{self.path}.{name}", self.overrides.origin(name)
        if isinstance(own, ConfigDict) and name in own:
            return own.written(name) or f"{self.info.name}.{name}", own.origin(name)
        if name in self.info.shared and name in self.config:
            return name, self.config.origin(name)
        return f"{self.path if self.overrides else self.info.name}.{name}", None

    def _part(self, name: str) -> Call | None:
        """Return the call that builds an injected argument, or None if the configuration contains none."""
        call = self.values(self.section()).get(name)
        if not isinstance(call, Descriptor):
            return None
        info = class_info(call.class_name)
        return Call(info, call.arguments, call.path or info.name, self.config)

    def explained(self, error: ParameterError) -> ConfigError:
        """Translate an error of the constructor to one that names keys of the configuration and their origins."""
        created_inside = error.owner not in ("", self.info.name)  # an object that the constructor created itself
        if created_inside or not error.parameters:
            return ConfigError(str(error))
        keys = [self.key(parameter) for parameter in error.parameters]
        if len({origin for _, origin in keys}) == 1:
            return ConfigError(error.sentence([f"'{name}'" for name, _ in keys]) + located(keys[0][1]))
        return ConfigError(error.sentence([f"'{name}'{located(origin)}" for name, origin in keys]))

    def require_agreement(self, section: Mapping[str, Any], implied: Mapping[str, Any]) -> None:
        """Refuse values of the configuration that contradict values implied by other parts of the model.

        Raises:
            ConfigError: the message contains the key, its value and the implied value.
        """
        for name, value in implied.items():
            if name in self.info.inject or name not in section or _plain(section[name]) == _plain(value):
                continue
            key, origin = self.key(name)
            raise ConfigError(
                f"'{key}' is {show(section[name])}{located(origin)}, but the other parts of the model require "
                f"{show(value)}: remove the key"
            )

    def require_all(self, arguments: Mapping[str, Any]) -> None:
        """Check that every parameter without a default has a value.

        Raises:
            ConfigError: the message names the first parameter without a value.
        """
        for name, parameter in self.info.parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in arguments:
                raise ConfigError(f"'{self.path}.{name}' must be set{located(self.config.filename)}")


def as_call(value: Any, default: str | None, path: str | None = None) -> Any:
    """Return the deferred constructor call that a class name or a mapping describes; copy other values.

    Args:
        value: value in the configuration.
        default: class of a mapping without ``name``.
        path: dotted key of the value.
    """
    if isinstance(value, str):
        return Descriptor(value, path=path)
    if isinstance(value, dict):
        arguments = from_plain(value, None)
        name = arguments.pop("name", default)
        return value if name is None else Descriptor(name, arguments, path=path)
    if isinstance(value, (list, tuple)):
        return [as_call(item, default, path and f"{path}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Descriptor):
        return Descriptor(value.class_name, clone(value.arguments), value.origin, path or value.path)
    return clone(value)


def bound(value: Any, config: Config) -> Any:
    """Return a deep copy of a value whose deferred constructor calls carry the configuration to build from."""
    if isinstance(value, Descriptor):
        return Descriptor(value.class_name, clone(value.arguments), value.origin, value.path, config)
    if isinstance(value, dict):
        copied = clone(value)
        for key, item in value.items():
            copied[key] = bound(item, config)
        return copied
    if type(value) in (list, tuple):
        return type(value)(bound(item, config) for item in value)
    return clone(value)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
