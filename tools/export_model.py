"""Export for Paddle Inference: ``python tools/export_model.py -c CONFIG -o weights=PATH --output_dir DIR``."""

from __future__ import annotations

import argparse

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.atomic import writable_dir
from deploy.common.command_line import int_in_range, non_empty
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine.compat import add_ignored, explain_ignored
from ppdet.export.onnx_export import DEFAULT_OPSET, OPSETS
from ppdet.utils.cli import ArgsParser, main_guard

IGNORED = {
    "--slim_config": "this project does not support model compression",
    "--export_serving_model": "deploy/serving uses the exported folder directly",
    "--for_fd": "models are only exported for Paddle Inference",
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgsParser(description=__doc__)
    parser.add_argument(
        "--output_dir", type=non_empty, default="output_inference", metavar="DIR", help="parent of the model folder"
    )
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx (see docs/onnx.md)")
    parser.add_argument(
        "--opset",
        type=int_in_range(OPSETS[0], OPSETS[-1]),
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"version of the ONNX operator set, {OPSETS[0]} to {OPSETS[-1]}",
    )
    add_ignored(parser, IGNORED)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> None:
    """Export according to the command line."""
    arguments = parse()
    from ppdet.export.exporter import export_model

    config = load_config(arguments.config, arguments.plugins)
    merge_config(arguments.opt, config)
    explain_ignored(arguments, IGNORED)
    writable_dir(arguments.output_dir)
    export_model(config, arguments.output_dir, arguments.opset if arguments.onnx else None)


if __name__ == "__main__":
    main_guard(main)
