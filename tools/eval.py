"""Evaluate a model: ``python tools/eval.py -c CONFIG -o weights=output/NAME/model_final``."""

from __future__ import annotations

import argparse

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.atomic import writable_dir
from deploy.common.command_line import non_empty
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine.compat import add_ignored, explain_ignored
from ppdet.engine.distributed.roll_call import announce_failure
from ppdet.utils.cli import ArgsParser, main_guard

IGNORED = {
    "--bias": "it only applies to rotated boxes and keypoints",
    "--slim_config": "this project does not support model compression",
    "--slice_infer": "images are always evaluated as a whole",
    "--slice_size": "images are always evaluated as a whole",
    "--overlap_ratio": "images are always evaluated as a whole",
    "--combine_method": "images are always evaluated as a whole",
    "--match_threshold": "images are always evaluated as a whole",
    "--match_metric": "images are always evaluated as a whole",
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgsParser(description=__doc__)
    parser.add_argument(
        "--output_eval", type=non_empty, default=None, metavar="DIR", help="folder for bbox.json and mask.json"
    )
    parser.add_flag("--json_eval", help="evaluate bbox.json and mask.json in --output_eval without running the model")
    parser.add_flag("--classwise", help="report the AP of each class")
    parser.add_flag("--save_prediction_only", help="write the predictions without computing the AP")
    parser.add_flag("--amp", help="use mixed precision")
    add_ignored(parser, IGNORED)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> None:
    """Evaluate according to the command line."""
    announce_failure()
    arguments = parse()
    config = load_config(arguments.config, arguments.plugins)
    from ppdet.engine.data import EvalData
    from ppdet.engine.evaluator import evaluate_json
    from ppdet.engine.runtime import Runtime
    from ppdet.engine.session import Session

    merge_config(arguments.opt, config)
    explain_ignored(arguments, IGNORED)
    for key in ("classwise", "save_prediction_only", "output_eval"):
        if getattr(arguments, key):
            merge_config({key: getattr(arguments, key)}, config)
    settings = RuntimeSettings.from_config(config)
    if settings.output_eval and not arguments.json_eval:
        writable_dir(settings.output_eval)  # fail before the evaluation, which may take an hour
    if arguments.json_eval:
        with Runtime(settings):
            evaluate_json(EvalData.from_config(config), settings.output_eval or ".")
        return
    session = Session(config, amp=arguments.amp or settings.amp)
    data = EvalData.from_config(config)  # report wrong paths before the weights are loaded
    session.load_weights()
    session.evaluate(data)


if __name__ == "__main__":
    main_guard(main)
