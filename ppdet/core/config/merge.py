"""Merging configurations."""

from __future__ import annotations

from typing import Any

from ppdet.core.config.errors import ConfigError, hint, located
from ppdet.core.config.node import ConfigDict, Descriptor, clone
from ppdet.core.registry import is_registered

__all__ = ["merge", "merge_into"]


def merge_into(base: ConfigDict, new: ConfigDict, path: str = "") -> None:
    """Merge ``new`` into ``base`` in place, key by key; see ``merge``."""
    for key, value in new.items():
        where = f"{path}.{key}" if path else key
        if key in base:
            value = merge(base[key], value, where, new.origin(key))
        else:
            value = clone(value)
        base.put(key, value, new.origin(key), new.written(key))


def merge(base: Any, new: Any, path: str = "", origin: str | None = None) -> Any:
    """Return ``base`` updated by ``new``; neither is modified.

    Mappings are merged key by key. A mapping merged into a tagged constructor call changes its arguments; merged into a
    list, it changes the elements that its keys denote (by position, or by class as in
    ``sample_transforms.Resize.interp``); merged into the name of a class, it adds arguments. A mapping whose
    ``name`` is another class, and any other value, replaces the old value, because the arguments of the old class would
    not be valid for the new one.

    Args:
        base: the present value.
        new: the value merged into it.
        path: dotted key, for messages.
        origin: where ``new`` was written.

    Raises:
        ConfigError: a key does not denote an element of a list.
    """
    if not isinstance(new, ConfigDict):
        return clone(new)
    if isinstance(base, Descriptor) and "name" not in new:
        arguments = clone(base.arguments)
        merge_into(arguments, new, path)
        return Descriptor(base.class_name, arguments, base.origin)
    if isinstance(base, list) and new:
        return _merge_list(base, new, path)
    if isinstance(base, str) and is_registered(base) and "name" not in new:
        named = ConfigDict()
        named.put("name", base, origin)
        merge_into(named, new, path)
        return named
    if isinstance(base, ConfigDict) and ("name" not in new or new["name"] == base.get("name")):
        merged = clone(base)
        merge_into(merged, new, path)
        return merged
    return clone(new)


def _merge_list(base: list[Any], new: ConfigDict, path: str) -> list[Any]:
    result = clone(base)
    for key, value in new.items():
        where = f"{path}.{key}"
        index = _position(base, key, path, new.origin(key))
        element = result[index]
        if not key.isdigit() and isinstance(element, ConfigDict) and key in element:
            merge_into(element, _single(key, value, new.origin(key)), path)
        else:
            result[index] = merge(element, value, where, new.origin(key))
    return result


def _single(key: str, value: Any, origin: str | None) -> ConfigDict:
    node = ConfigDict()
    node.put(key, value, origin)
    return node


def _position(base: list[Any], key: str, path: str, origin: str | None) -> int:
    """Return the position of the element that ``key`` denotes: an index, or the class of exactly one element."""
    if key.isdigit():
        if int(key) < len(base):
            return int(key)
        raise ConfigError(f"'{path}' has {len(base)} elements, so that there is no '{path}.{key}'{located(origin)}")
    names = [_element_name(element) for element in base]
    if names.count(key) == 1:
        return names.index(key)
    if names.count(key) > 1:
        raise ConfigError(f"'{path}' has several elements '{key}'; refer to one by its position{located(origin)}")
    valid = [name for name in names if name] + [str(index) for index in range(len(base))]
    raise ConfigError(f"'{path}' has no element '{key}'{located(origin)}{hint(key, valid)}")


def _element_name(element: Any) -> str | None:
    if isinstance(element, Descriptor):
        return element.class_name
    if isinstance(element, str):
        return element
    if isinstance(element, ConfigDict):
        name = element.get("name")
        if isinstance(name, str):
            return name
        if len(element) == 1:
            return next(iter(element))
    return None
