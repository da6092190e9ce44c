"""Evaluate a model: ``python tools/eval.py -c CONFIG -o weights=output/NAME/model_final``."""

from __future__ import annotations

import argparse

import _start  # noqa: F401  first: it puts this checkout's ppdet on sys.path

from deploy.common.atomic import writable_dir
from deploy.common.command_line import non_empty
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine.compat import add_ignored, explain_ignored
from ppdet.engine.distributed.roll_call import announce_failure
from ppdet.utils.cli import ArgsParser, main_guard

IGNORED = {
    "--bias": "it belongs to rotated boxes and keypoints",
    "--slim_config": "this project has no model compression",
    "--slice_infer": "images are evaluated whole",
    "--slice_size": "images are evaluated whole",
    "--overlap_ratio": "images are evaluated whole",
    "--combine_method": "images are evaluated whole",
    "--match_threshold": "images are evaluated whole",
    "--match_metric": "images are evaluated whole",
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgsParser(description=__doc__)
    parser.add_argument(
        "--output_eval", type=non_empty, default=None, metavar="DIR", help="write bbox.json and mask.json there"
    )
    parser.add_flag("--json_eval", help="evaluate the bbox.json and mask.json of --output_eval, without the model")
    parser.add_flag("--classwise", help="AP of every class")
    parser.add_flag("--save_prediction_only", help="write the predictions, compute no AP")
    parser.add_flag("--amp", help="mixed precision")
    add_ignored(parser, IGNORED)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> None:
    """Evaluate as the command line says."""
    announce_failure()
    arguments = parse()
    load_config(arguments.config)
    from ppdet.engine.data import EvalData
    from ppdet.engine.distributed.env import init_parallel, select_device
    from ppdet.engine.evaluator import evaluate_json
    from ppdet.engine.training.trainer import Trainer

    config = merge_config(arguments.opt)
    explain_ignored(arguments, IGNORED)
    for key in ("classwise", "save_prediction_only", "output_eval"):
        if getattr(arguments, key):
            merge_config({key: getattr(arguments, key)})
    if config.get("output_eval") and not arguments.json_eval:
        writable_dir(config["output_eval"])  # before the hour that an evaluation takes
    if arguments.json_eval:
        select_device(config)
        init_parallel()
        evaluate_json(EvalData.from_config(config), config.get("output_eval") or ".")
        return
    trainer = Trainer(config, amp=arguments.amp or bool(config.get("amp")))
    data = EvalData.from_config(config)  # a wrong path shall not cost the time of loading the weights
    trainer.load_weights()
    trainer.evaluate(data)


if __name__ == "__main__":
    main_guard(main)
