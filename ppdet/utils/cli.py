"""Command lines of the tools: ``-c FILE``, ``-o KEY=VALUE``, flags, and error handling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.common.command_line import Parser, main_guard, str2bool
from ppdet.core.config.errors import ConfigError
from ppdet.core.config.node import ConfigDict
from ppdet.core.config.yaml_io import parse_yaml

__all__ = ["ArgsParser", "main_guard", "parse_overrides", "str2bool"]

COMMAND_LINE = "command line"


class ArgsParser(Parser):
    """Argument parser with ``-c/--config``, ``-o/--opt`` and ``--plugins``; an invalid command line raises UserError.

    ``opt`` of the parsed arguments is a nested ConfigDict for ``merge_config``: ``-o A.b=1 A.c=2`` gives
    ``{A: {b: 1, c: 2}}``. The option may be repeated; every assignment takes effect.
    """

    def __init__(self, config_required: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_argument("-c", "--config", required=config_required, metavar="FILE", help="configuration file")
        self.add_argument(
            "-o", "--opt", nargs="*", action="extend", metavar="KEY=VALUE", help="set configuration keys, e.g. epoch=1"
        )
        self.add_argument(
            "--plugins",
            nargs="+",
            action="extend",
            default=[],
            metavar="FILE",
            help="Python files whose registered classes the configuration may use",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line.

        Raises:
            UserError: an unknown or missing option, or a malformed value.
        """
        parsed = super().parse_args(args, namespace)
        parsed.opt = parse_overrides(parsed.opt or [])
        return parsed


def parse_overrides(assignments: Sequence[str]) -> ConfigDict:
    """Turn ``KEY=VALUE`` assignments into a nested mapping; values are read as YAML (``1e-3``, ``[1, 2]``, ``null``).

    Raises:
        ConfigError: no ``=``, an empty key, a value that is not YAML, or both a key and keys below it are set.
    """
    result = ConfigDict()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"-o takes KEY=VALUE (quote values that contain spaces), got '{assignment}'")
        try:
            value = parse_yaml(text, COMMAND_LINE, lines=False)
        except ConfigError as error:
            raise ConfigError(f"-o {assignment}: {error}") from None
        node = result
        for depth, key in enumerate(keys[:-1], start=1):
            if key not in node:
                node.put(key, ConfigDict(), COMMAND_LINE)
            node = node[key]
            if not isinstance(node, ConfigDict):
                raise ConfigError(f"-o sets both '{'.'.join(keys[:depth])}' and '{path}'")
        if isinstance(node.get(keys[-1]), ConfigDict) and not isinstance(value, ConfigDict):
            raise ConfigError(f"-o sets both '{path}' and keys below it")
        node.put(keys[-1], value, COMMAND_LINE)
    return result
