"""Command lines: ``-c FILE``, ``-o KEY=VALUE``, flags, and the frame every tool runs in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ppdet.core.config.errors import ConfigError
from ppdet.core.config.node import ConfigDict
from ppdet.core.config.yaml_io import parse_yaml
from ppdet.utils.errors import UserError

__all__ = ["ArgsParser", "main_guard", "parse_overrides", "str2bool"]

_TRUE = ("true", "yes", "on", "1", "t", "y")
_FALSE = ("false", "no", "off", "0", "f", "n")
COMMAND_LINE = "command line"


def str2bool(text: str) -> bool:
    """Read a flag's value.

    Raises:
        argparse.ArgumentTypeError: neither a word for true nor one for false.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got '{text}'")


class ArgsParser(argparse.ArgumentParser):
    """Argument parser with ``-c/--config`` and ``-o/--opt``; a wrong command line raises UserError.

    ``opt`` of the parsed arguments is a nested ConfigDict for ``merge_config``: ``-o A.b=1 A.c=2`` gives
    ``{A: {b: 1, c: 2}}``. The option may be repeated; every assignment takes effect.
    """

    def __init__(self, config_required: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**kwargs)
        self.add_argument("-c", "--config", required=config_required, metavar="FILE", help="configuration file")
        self.add_argument(
            "-o", "--opt", nargs="*", action="extend", metavar="KEY=VALUE", help="set configuration keys, e.g. epoch=1"
        )

    def add_flag(self, name: str, default: bool = False, help: str | None = None) -> None:
        """Add a flag: bare it is true, with a value (``--eval False``) it is what the value says."""
        self.add_argument(name, nargs="?", const=True, default=default, type=str2bool, metavar="BOOL", help=help)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line.

        Raises:
            UserError: an unknown or missing option, a malformed value.
        """
        parsed = super().parse_args(args, namespace)
        parsed.opt = parse_overrides(parsed.opt or [])
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as UserError instead of ending the process."""
        raise UserError(f"{message}; see {self.prog} --help")


def parse_overrides(assignments: Sequence[str]) -> ConfigDict:
    """Turn ``KEY=VALUE`` assignments into a nested mapping; values are read as YAML (``1e-3``, ``[1, 2]``, ``null``).

    Raises:
        ConfigError: no ``=``, an empty key, a value that is not YAML, or a key set both to a value and below it.
    """
    result = ConfigDict()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"-o takes KEY=VALUE (quote values that hold spaces), got '{assignment}'")
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


def main_guard(main: Callable[[], Any]) -> NoReturn:
    """Run a tool and end the process: status 0, ``error: …`` and 1 for a user's mistake, 130 for Ctrl-C.

    ``main`` may return an exit status; None means 0. Any other exception is a defect of the program and keeps its
    traceback, except that a missing PaddlePaddle is answered with the line that installs it.
    """
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paddle":
            raise
        command = "pip install -r requirements-cpu.txt (GPU: requirements-gpu.txt)"
        print(f"error: PaddlePaddle is not installed: {command}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) went away: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
