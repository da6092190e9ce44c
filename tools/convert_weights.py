"""Convert an official PyTorch checkpoint: ``python tools/convert_weights.py -c CONFIG --src X.pth --dst weights/NAME``.

``--check A B`` compares two checkpoints tensor by tensor instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _start  # noqa: F401  first: it puts this checkout's ppdet on sys.path

from ppdet.core.config.node import ConfigDict
from ppdet.core.workspace import create, load_config, merge_config
from ppdet.engine.convert import compare_states, convert_state, from_official
from ppdet.engine.env import select_device
from ppdet.engine.weights import find_weights, read_state, write_state
from ppdet.utils.atomic import make_dir
from ppdet.utils.cli import ArgsParser, main_guard
from ppdet.utils.errors import UserError
from ppdet.utils.logger import setup_logger

logger = setup_logger("ppdet.convert_weights")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgsParser(description=__doc__, config_required=False)
    parser.add_argument("--src", default=None, metavar="FILE", help="PyTorch checkpoint")
    parser.add_argument("--dst", default=None, metavar="PATH", help="result; .pdparams and .safetensors are appended")
    parser.add_argument("--check", nargs=2, default=None, metavar="FILE", help="compare two checkpoints")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest difference that --check lets pass")
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def check(first: str, second: str, tolerance: float) -> None:
    """Compare two checkpoints.

    Raises:
        UserError: they differ.
    """
    one, other = (
        from_official(read_state(path)).arrays if path.endswith(".pth") else read_state(path)
        for path in (first, second)
    )
    faults = compare_states(one, other, tolerance)
    for fault in faults:
        logger.error("%s", fault)
    if faults:
        raise UserError(
            f"{find_weights(first)} and {find_weights(second)} differ in {len(faults)} tensors: {faults[0]}"
        )
    logger.info("%d tensors are equal%s", len(one), f" to {tolerance:g}" if tolerance else "")


def convert(config_file: str, overrides: ConfigDict, source: str, target: str) -> None:
    """Convert one checkpoint.

    Raises:
        UserError: it cannot be read or does not fit the configuration's model; nothing is written then.
    """
    load_config(config_file)
    merge_config(overrides)
    config = merge_config({"use_gpu": False})
    select_device(config)
    state = read_state(source)
    model = create(config.architecture)
    try:
        result = convert_state(model, state)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    reasons: dict[str, list[str]] = {}
    for name, reason in result.left.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        logger.info("not converted, %s: %s", reason, ", ".join(names))
    stem = Path(target)
    stem = stem.with_suffix("") if stem.suffix in (".pdparams", ".safetensors") else stem
    make_dir(stem.parent)
    write_state(result.arrays, stem)
    logger.info(
        "%d tensors of %s: %d converted, %d left; wrote %s.pdparams and .safetensors",
        len(state),
        source,
        len(result.arrays),
        len(result.left),
        stem,
    )


def main() -> None:
    """Convert or compare as the command line says."""
    arguments = parse()
    if arguments.check:
        check(arguments.check[0], arguments.check[1], arguments.tolerance)
        return
    for name in ("config", "src", "dst"):
        if not getattr(arguments, name):
            raise UserError(f"--{name} is missing (or give --check A B)")
    convert(arguments.config, arguments.opt, arguments.src, arguments.dst)


if __name__ == "__main__":
    main_guard(main)
