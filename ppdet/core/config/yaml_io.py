"""Reading and writing configurations in YAML. Only data is read; no tag can execute code."""

from __future__ import annotations

import os
from typing import Any

import yaml

from deploy.common.bounded_yaml import BoundedLoader, YamlError, compose, read_text
from ppdet.core.config.errors import ConfigError, nearest
from ppdet.core.config.node import ConfigDict, Descriptor

__all__ = ["dump_yaml", "load_yaml_file", "parse_yaml", "read_config_file"]

BASE_KEY = "_BASE_"
MAX_FILES = 100
_YAML = "tag:yaml.org,2002:"


class _Converter:
    """Converts a graph of YAML nodes to ConfigDict, list, scalar and Descriptor, and records the line of each key."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source = source
        self.lines = lines

    def origin(self, node: yaml.Node) -> str:
        return f"{self.source}, line {node.start_mark.line + 1}" if self.lines else self.source

    def convert(self, loader: BoundedLoader, node: yaml.Node) -> Any:
        if node.tag.startswith("!"):
            return self.descriptor(loader, node)
        if isinstance(node, yaml.ScalarNode):
            return loader.scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _YAML + "seq":
            return [self.convert(loader, item) for item in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == _YAML + "map":
            return self.mapping(loader, node)
        raise ConfigError(f"the YAML tag '{node.tag}' is not allowed ({self.origin(node)})")

    def mapping(self, loader: BoundedLoader, node: yaml.MappingNode) -> ConfigDict:
        result = ConfigDict()
        for name, (key, value) in loader.pairs(node).items():
            result.put(name, self.convert(loader, value), self.origin(key))
        return result

    def descriptor(self, loader: BoundedLoader, node: yaml.Node) -> Descriptor:
        name = node.tag[1:]
        if isinstance(node, yaml.ScalarNode) and node.value == "":
            return Descriptor(name, ConfigDict(), self.origin(node))
        if isinstance(node, yaml.MappingNode):
            return Descriptor(name, self.mapping(loader, node), self.origin(node))
        raise ConfigError(f"!{name} takes named arguments, as in !{name} {{key: value}} ({self.origin(node)})")


def parse_yaml(text: str, source: str, lines: bool = True) -> Any:
    """Parse one YAML document.

    Args:
        text: the document.
        source: name of the document in messages: a file name or ``command line``.
        lines: whether origins contain line numbers.

    Returns:
        ConfigDict, list, Descriptor or scalar; None for an empty document.

    Raises:
        ConfigError: the text is not YAML, or it contains a Python tag, a duplicate key, or an excessive amount of data.
    """
    try:
        return compose(text, _Converter(source, lines).convert)
    except YamlError as error:
        line = f", line {error.line}" if lines and error.line is not None else ""
        raise ConfigError(f"cannot read as YAML: {error.problem} ({source}{line})") from None


def load_yaml_file(path: str) -> ConfigDict:
    """Read one configuration file without resolving ``_BASE_``.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, or not a mapping of keys.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file '{path}'{_similar_file(path)}") from None
    except OSError as error:
        raise ConfigError(f"cannot read configuration file '{path}': {error.strerror or error}") from None
    except YamlError as error:
        raise ConfigError(f"cannot read configuration file '{path}': {error}") from None
    content = parse_yaml(text, _display(path))
    if content is None:
        return ConfigDict()
    if not isinstance(content, ConfigDict):
        raise ConfigError(f"a configuration file consists of 'key: value' lines, but '{_display(path)}' does not")
    return content


def read_config_file(path: str, chain: tuple[str, ...] = (), seen: list[str] | None = None) -> list[ConfigDict]:
    """Read a configuration file and the files that it names under ``_BASE_``.

    Args:
        path: the file; its ``_BASE_`` (one name or a list) is relative to the folder of the file.
        chain: the files whose ``_BASE_`` led to this one, to detect cycles.
        seen: all files read so far, to limit their number.

    Returns:
        Layers in the order in which they must be merged, the file itself last.

    Raises:
        ConfigError: see ``load_yaml_file``; or a base file is missing, part of a cycle, or not given as a string.
    """
    real = os.path.realpath(path)
    if real in chain:
        raise ConfigError(f"'{_display(path)}' is its own {BASE_KEY}, directly or through another file")
    seen = [] if seen is None else seen
    seen.append(real)
    if len(seen) > MAX_FILES:
        raise ConfigError(f"'{_display(path)}': {BASE_KEY} leads to more than {MAX_FILES} files")
    content = load_yaml_file(path)
    origin = content.origin(BASE_KEY)
    bases = content.pop(BASE_KEY, None)
    layers: list[ConfigDict] = []
    for base in [] if bases is None else bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(f"{BASE_KEY} takes a file name or a list of them, got {base!r} ({origin})")
        target = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(base)))
        if os.path.isdir(target):
            raise ConfigError(f"{BASE_KEY} takes files, but '{target}' is a folder ({origin})")
        if not os.path.isfile(target):
            raise ConfigError(f"{BASE_KEY} file '{target}' does not exist ({origin}){_similar_file(target)}")
        layers += read_config_file(target, (*chain, real), seen)
    return [*layers, content]


def _similar_file(path: str) -> str:
    folder = os.path.dirname(path) or "."
    try:
        names = os.listdir(folder)
    except OSError:
        return f"; there is no folder '{folder}'"
    match = nearest(os.path.basename(path), [name for name in names if name.endswith((".yml", ".yaml"))])
    return f"; did you mean '{os.path.join(os.path.dirname(path), match)}'?" if match else ""


def _display(path: str) -> str:
    """Return the path relative to the current folder if it is inside it."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = BoundedLoader.yaml_implicit_resolvers
_Dumper.add_multi_representer(
    Descriptor, lambda dumper, value: dumper.represent_mapping("!" + value.class_name, value.arguments)
)
_Dumper.add_multi_representer(dict, lambda dumper, value: dumper.represent_mapping(_YAML + "map", value))
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))


def dump_yaml(config: ConfigDict) -> str:
    """Return a configuration as YAML that loads to the same configuration.

    Raises:
        ConfigError: it contains a built object, which cannot be written as YAML.
    """
    try:
        return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"the configuration cannot be written as YAML: {' '.join(str(error).split())}") from None
