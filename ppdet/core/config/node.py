"""What a configuration consists of: mappings that know where each key was set, and inert constructor calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppdet.core.config.errors import ConfigError, MissingKeyError, located

__all__ = ["Config", "ConfigDict", "Descriptor", "clone", "from_plain"]


class ConfigDict(dict):
    """A dictionary with attribute access which remembers the origin (file and line, command line) of its keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["_origins"] = {}

    def origin(self, key: str) -> str | None:
        """Return where ``key`` was set last, or None where a program set it."""
        return self.__dict__.get("_origins", {}).get(key)

    def put(self, key: str, value: Any, origin: str | None) -> None:
        """Set ``key`` and remember where it came from."""
        self[key] = value
        self.__dict__["_origins"][key] = origin

    def __missing__(self, key: str) -> Any:
        raise MissingKeyError(f"the configuration does not set '{key}'")

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        del self[key]

    def copy(self) -> ConfigDict:
        """Return a copy all the way down."""
        return clone(self)


class Config(ConfigDict):
    """A whole configuration; ``filename`` is the file that was loaded ('' for none)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["filename"] = ""

    def __missing__(self, key: str) -> Any:
        raise MissingKeyError(f"the configuration does not set '{key}'{located(self.__dict__.get('filename'))}")

    def copy(self) -> Config:
        """Return a copy all the way down."""
        copied: Config = clone(self)
        return copied


class Descriptor:
    """A constructor call that has not happened: class name and arguments, as a YAML tag ``!Name {…}`` writes it.

    Arguments read and write as attributes and items of the descriptor.

    Attributes:
        class_name: registered name of the class.
        arguments: keyword arguments of its constructor.
        origin: file and line, or None.
        path: dotted key at which the configuration has the call, or None; for messages.
    """

    class_name: str
    arguments: ConfigDict
    origin: str | None
    path: str | None

    def __init__(
        self,
        class_name: str,
        arguments: ConfigDict | None = None,
        origin: str | None = None,
        path: str | None = None,
    ) -> None:
        self.__dict__.update(class_name=class_name, origin=origin, path=path)
        self.__dict__["arguments"] = ConfigDict() if arguments is None else arguments

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__") or "arguments" not in self.__dict__:
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        self.arguments[key] = value

    def __getitem__(self, key: str) -> Any:
        if key not in self.arguments:
            raise MissingKeyError(f"!{self.class_name} does not set '{key}'{located(self.origin)}")
        return self.arguments[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.arguments[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.arguments

    def get(self, key: str, default: Any = None) -> Any:
        """Return argument ``key``, or ``default`` where the descriptor does not set it."""
        return self.arguments.get(key, default)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Descriptor):
            return NotImplemented
        return self.class_name == other.class_name and self.arguments == other.arguments

    __hash__ = None  # type: ignore[assignment]  # mutable, like the dict it stands for

    def __repr__(self) -> str:
        return f"!{self.class_name} {dict(self.arguments)!r}"


def clone(value: Any) -> Any:
    """Copy mappings, lists, tuples and descriptors all the way down; anything else (a built object) stays itself."""
    if isinstance(value, Descriptor):
        return Descriptor(value.class_name, clone(value.arguments), value.origin, value.path)
    if isinstance(value, ConfigDict):
        copied = type(value)()
        copied.__dict__.update(value.__dict__)
        copied.__dict__["_origins"] = dict(value.__dict__["_origins"])
        for key, item in value.items():
            copied[key] = clone(item)
        return copied
    if isinstance(value, dict):
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clone(item) for item in value]
    if type(value) is tuple:
        return tuple(clone(item) for item in value)
    return value


def from_plain(value: Any, origin: str | None) -> Any:
    """Turn plain mappings (not those which are ConfigDicts already) into ConfigDicts whose keys come from ``origin``.

    Raises:
        ConfigError: a key is not a text.
    """
    if isinstance(value, ConfigDict):
        return clone(value)
    if isinstance(value, Mapping):
        node = ConfigDict()
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"configuration key {key!r} must be a text{located(origin)}")
            node.put(key, from_plain(item, origin), origin)
        return node
    if isinstance(value, (list, tuple)):
        return [from_plain(item, origin) for item in value]
    return value
