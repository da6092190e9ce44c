"""The parts of a configuration: mappings that remember where each key was set, and deferred constructor calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from ppdet.core.config.current import as_current
from ppdet.core.config.errors import ConfigError, MissingKeyError, located

__all__ = ["Config", "ConfigDict", "Descriptor", "clone", "from_plain"]


class ConfigDict(dict):
    """A dictionary with attribute access that remembers the origin (file and line, or command line) of its keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["_origins"] = {}
        self.__dict__["_written"] = {}

    def origin(self, key: str) -> str | None:
        """Return where ``key`` was last set, or None if Python code set it."""
        return self.__dict__.get("_origins", {}).get(key)

    def written(self, key: str) -> str | None:
        """Return the dotted key that the user wrote for ``key``, or None if it is the same."""
        return self.__dict__.get("_written", {}).get(key)

    def put(self, key: str, value: Any, origin: str | None, written: str | None = None) -> None:
        """Set ``key``, and record where and, if the user wrote another dotted key, under which key it was written."""
        self[key] = value
        self.__dict__["_origins"][key] = origin
        self.__dict__["_written"][key] = written

    def discard(self, key: str) -> None:
        """Remove ``key`` if it is set."""
        self.pop(key, None)
        self.__dict__["_origins"].pop(key, None)
        self.__dict__["_written"].pop(key, None)

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
        """Return a deep copy."""
        return clone(self)


class Config(ConfigDict):
    """A complete configuration; ``filename`` is the file it was loaded from, or an empty string."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["filename"] = ""

    def __missing__(self, key: str) -> Any:
        raise MissingKeyError(f"the configuration does not set '{key}'{located(self.__dict__.get('filename'))}")

    def copy(self) -> Config:
        """Return a deep copy."""
        copied: Config = clone(self)
        return copied

    def as_current(self) -> AbstractContextManager[Config]:
        """Make this the configuration of calls that name none, such as ``create("TrainReader")``, inside a ``with``.

        Blocks may be nested; each thread has its own. A configuration loaded inside the block does not replace it.
        """
        return as_current(self)


class Descriptor:
    """A deferred constructor call: class name and arguments, written in YAML as the tag ``!Name {…}``.

    The arguments can be read and set as attributes and as items of the descriptor.

    Attributes:
        class_name: registered name of the class.
        arguments: keyword arguments of its constructor.
        origin: file and line, or None.
        path: dotted key of the call in the configuration, or None; used in messages.
        config: configuration to build from, if the descriptor was handed to a class's ``from_config``; else None.
    """

    class_name: str
    arguments: ConfigDict
    origin: str | None
    path: str | None
    config: Config | None

    def __init__(
        self,
        class_name: str,
        arguments: ConfigDict | None = None,
        origin: str | None = None,
        path: str | None = None,
        config: Config | None = None,
    ) -> None:
        self.__dict__.update(class_name=class_name, origin=origin, path=path, config=config)
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
        """Return argument ``key``, or ``default`` if the descriptor does not set it."""
        return self.arguments.get(key, default)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Descriptor):
            return NotImplemented
        return self.class_name == other.class_name and self.arguments == other.arguments

    __hash__ = None  # type: ignore[assignment]  # mutable, like a dict

    def __repr__(self) -> str:
        return f"!{self.class_name} {dict(self.arguments)!r}"


def clone(value: Any) -> Any:
    """Return a deep copy of mappings, lists, tuples and descriptors; other values (built objects) are not copied."""
    if isinstance(value, Descriptor):
        return Descriptor(value.class_name, clone(value.arguments), value.origin, value.path, value.config)
    if isinstance(value, ConfigDict):
        copied = type(value)()
        copied.__dict__.update(value.__dict__)
        copied.__dict__["_origins"] = dict(value.__dict__["_origins"])
        copied.__dict__["_written"] = dict(value.__dict__["_written"])
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
    """Convert plain mappings into ConfigDicts whose keys have the given origin; existing ConfigDicts are copied.

    Raises:
        ConfigError: a key is not a string.
    """
    if isinstance(value, ConfigDict):
        return clone(value)
    if isinstance(value, Mapping):
        node = ConfigDict()
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"configuration key {key!r} must be a string{located(origin)}")
            node.put(key, from_plain(item, origin), origin)
        return node
    if isinstance(value, (list, tuple)):
        return [from_plain(item, origin) for item in value]
    return value
