"""Reading untrusted YAML files: only plain data is returned, and its amount is limited.

A few hundred bytes of YAML can expand to gigabytes through aliases and merge keys, and PyYAML takes minutes for deeply
nested or long documents. The size, the number of nodes, the depth and the expansion of aliases are limited while the
text is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BoundedLoader", "YamlError", "compose", "dump_plain", "plain", "read_plain", "read_text"]

LARGEST_FILE = 1 << 20
"""Bytes; a configuration with the names of ten thousand classes has a third of this size."""
MOST_NODES = 40_000
MOST_EXPANDED = 100_000
"""Number of nodes after all aliases have been expanded."""
MOST_DEPTH = 64
LONGEST_NUMBER = 64
"""Characters; parsing an integer takes quadratic time in Python."""

_YAML = "tag:yaml.org,2002:"
_MERGE = _YAML + "merge"
_SCALARS = tuple(_YAML + name for name in ("str", "int", "float", "bool", "null"))
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class YamlError(ValueError):
    """An invalid document.

    Attributes:
        problem: short description.
        line: line number, starting from 1; None if it is unknown.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"{problem}, line {line}")
        self.problem, self.line = problem, line


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; parses 1e-3 as a number (YAML 1.1 requires 1.0e-3) and dates as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._expanded: dict[int, tuple[int, int]] = {}  # by node: number of nodes and levels after expansion
        self._merged: dict[int, dict[str, tuple[yaml.ScalarNode, yaml.Node]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a node like PyYAML, within the limits.

        Raises:
            YamlError: there are too many nodes or levels, or an alias contains itself.
        """
        line = int(self.peek_event().start_mark.line) + 1
        alias = self.check_event(yaml.AliasEvent)
        self._nodes += 1
        self._depth += 1
        if self._nodes > MOST_NODES:
            raise YamlError(f"more than {MOST_NODES} values", line)
        if self._depth > MOST_DEPTH:
            raise YamlError(f"nested deeper than {MOST_DEPTH} levels", line)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._expanded:
            return node
        if alias:
            raise YamlError("aliases expand without end because one of them contains itself", line)
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        sizes = [self._expanded[id(part)] for part in parts]
        size, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        if size > MOST_EXPANDED or depth > MOST_DEPTH:
            raise YamlError(f"aliases expand without end to more than {MOST_EXPANDED} values", line)
        self._expanded[id(node)] = size, depth
        return node

    def scalar(self, node: yaml.ScalarNode) -> str | int | float | bool | None:
        """Return the value of a scalar: a text, a number, a boolean or null.

        Raises:
            YamlError: the tag is not allowed, a number is too long, or a text contains invalid characters.
        """
        if node.tag not in _SCALARS:
            raise YamlError(f"the YAML tag '{node.tag}' is not allowed", _line(node))
        if node.tag in (_YAML + "int", _YAML + "float") and len(node.value) > LONGEST_NUMBER:
            raise YamlError(f"a number with {len(node.value)} characters is too long", _line(node))
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in node.value):
            raise YamlError("a text contains a null character or an incomplete character", _line(node))
        try:
            value: str | int | float | bool | None = self.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:  # a text with an explicit number tag
            raise YamlError(f"'{node.value}' is not a valid {node.tag[len(_YAML) :]}", _line(node)) from error
        return value

    def pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
        """Return the key and value nodes of a mapping by the text of the key, including those of merge keys (``<<``).

        Raises:
            YamlError: a key is not a plain text or occurs twice, or a merge key does not refer to mappings.
        """
        if id(node) in self._merged:
            return self._merged[id(node)]
        own: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        added: list[yaml.MappingNode] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key must be a plain text", _line(key))
            if key.value in own or (key.tag == _MERGE and added):
                raise YamlError(f"key '{key.value}' is set twice in one section", _line(key))
            if key.tag != _MERGE:
                self.scalar(yaml.ScalarNode(_YAML + "str", key.value, key.start_mark, key.end_mark))
                own[key.value] = key, value
                continue
            added = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not all(isinstance(mapping, yaml.MappingNode) for mapping in added):
                raise YamlError("'<<' takes a mapping or a list of mappings", _line(key))
        result: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for mapping in reversed(added):
            result.update(self.pairs(mapping))
        result.update(own)
        self._merged[id(node)] = result
        return result


BoundedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in entries if tag not in (_YAML + "float", _YAML + "timestamp")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
BoundedLoader.add_implicit_resolver(_YAML + "float", _FLOAT, list("-+0123456789."))


def compose(text: str, convert: Callable[[BoundedLoader, yaml.Node], Any]) -> Any:
    """Parse a document and convert its nodes.

    Args:
        text: the document.
        convert: called with the loader and the root node.

    Returns:
        What ``convert`` returns; None for an empty document.

    Raises:
        YamlError: it is not valid YAML, contains several documents, or exceeds the limits.
    """
    if len(text) > LARGEST_FILE:
        raise YamlError(f"the text has {len(text)} characters, which is too large for a configuration")
    loader = None
    try:
        loader = BoundedLoader(text)
        node = loader.get_single_node()
        return None if node is None else convert(loader, node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if isinstance(error, yaml.reader.ReaderError):  # a control character, which has a position but no mark
            line = text.count("\n", 0, int(error.position)) + 1
            raise YamlError(f"the character {error.character:#06x} is not allowed", line) from error
        parts = [getattr(error, name, None) or "" for name in ("context", "problem")]
        problem = " ".join(parts if parts[0].startswith("expected") else parts[1:]) or " ".join(str(error).split())
        raise YamlError(problem, None if mark is None else int(mark.line) + 1) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(str(error) or type(error).__name__) from error
    finally:
        if loader is not None:
            loader.dispose()


def plain(text: str) -> Any:
    """Parse a document into dictionaries with text keys, lists and scalars.

    Raises:
        YamlError: see `compose`; or the document contains a tag.
    """
    return compose(text, _plain)


def _plain(loader: BoundedLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.scalar(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _YAML + "seq":
        return [_plain(loader, item) for item in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == _YAML + "map":
        return {key: _plain(loader, value) for key, (_, value) in loader.pairs(node).items()}
    raise YamlError(f"the YAML tag '{node.tag}' is not allowed", _line(node))


def read_text(path: str | Path) -> str:
    """Read the text of a configuration file, in UTF-8, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        YamlError: the file is too large or not encoded in UTF-8.
    """
    with open(path, "rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise YamlError(f"the file has more than {LARGEST_FILE} bytes, which is too large for a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(f"the byte {content[error.start]:#04x} is not valid UTF-8 ({error.reason})", line) from error


def read_plain(path: str | Path) -> Any:
    """Parse a file with `plain`.

    Raises:
        OSError, YamlError: see `read_text` and `plain`.
    """
    return plain(read_text(path))


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `BoundedLoader` would not parse as text, and does not write aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = BoundedLoader.yaml_implicit_resolvers


def dump_plain(value: Any) -> str:
    """Serialise dictionaries, lists and scalars to YAML such that `plain` restores them exactly."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
