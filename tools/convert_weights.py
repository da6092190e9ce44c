"""Convert an official PyTorch checkpoint: ``python tools/convert_weights.py -c CONFIG --src X.pth --dst weights/NAME``.

``--check A B`` compares two checkpoints tensor by tensor instead.
"""

from __future__ import annotations

import argparse

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.command_line import float_in_range
from ppdet.utils.cli import ArgsParser, main_guard
from ppdet.utils.errors import UserError


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgsParser(description=__doc__, config_required=False)
    parser.add_argument("--src", default=None, metavar="FILE", help="PyTorch checkpoint")
    parser.add_argument(
        "--dst", default=None, metavar="PATH", help="output path; .pdparams and .safetensors are appended"
    )
    parser.add_argument("--check", nargs=2, default=None, metavar="FILE", help="compare two checkpoints")
    parser.add_argument(
        "--tolerance", type=float_in_range(0), default=0.0, help="largest difference accepted by --check"
    )
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> None:
    """Convert or compare checkpoints according to the command line."""
    arguments = parse()
    if arguments.check:
        from ppdet.checkpoint.convert_file import check_files

        check_files(arguments.check[0], arguments.check[1], arguments.tolerance)
        return
    for name in ("config", "src", "dst"):
        if not getattr(arguments, name):
            raise UserError(f"--{name} is missing; it is required unless --check A B is given")
    from ppdet.checkpoint.convert_file import convert_file
    from ppdet.core.workspace import load_config, merge_config

    config = load_config(arguments.config, arguments.plugins)
    merge_config(arguments.opt, config)
    merge_config({"use_gpu": False}, config)
    convert_file(config, arguments.src, arguments.dst)


if __name__ == "__main__":
    main_guard(main)
