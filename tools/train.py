"""Train a model: ``python tools/train.py -c configs/htc/htc_r50_fpn_1x_coco.yml --eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.atomic import writable_dir
from deploy.common.command_line import non_empty
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine.compat import add_ignored, explain_ignored
from ppdet.engine.distributed.roll_call import announce_failure
from ppdet.utils.cli import ArgsParser, main_guard

IGNORED = {
    "--to_static": "training always runs in dynamic graph mode",
    "--profiler_options": "run tools/train.py under Paddle's own profiler instead",
    "--fleet": "several processes use DataParallel instead of fleet",
    "--slim_config": "this project does not support model compression",
    "--use_wandb": "see train_scalars.csv and eval_scalars.csv in the run folder, or use --use_vdl",
    "--save_proposals": "proposals are part of the model",
    "--proposals_path": "proposals are part of the model",
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgsParser(description=__doc__)
    parser.add_flag("--eval", help="evaluate after every saved epoch and keep the best weights")
    parser.add_argument(
        "-r",
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="resume from a checkpoint such as output/NAME/3; without PATH, from the newest complete checkpoint of the "
        "run; with 'auto', the same, or start a new run if there is none",
    )
    parser.add_flag("--overwrite", help="remove the existing run in output/NAME and start a new one")
    parser.add_argument(
        "--replay",
        default=None,
        metavar="FILE",
        help="repeat the step recorded in a nonfinite_*.json with the weights of -r",
    )
    parser.add_flag("--amp", help="use mixed precision")
    parser.add_flag("--enable_ce", help="use seed 0 and deterministic algorithms to compare runs")
    parser.add_flag("--use_vdl", help="write scalars for VisualDL")
    parser.add_argument(
        "--vdl_log_dir", type=non_empty, default=None, metavar="DIR", help="folder for the VisualDL records"
    )
    parser.add_flag("--save_prediction_only", help="write the predictions of evaluations without computing the AP")
    add_ignored(parser, IGNORED)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> None:
    """Train according to the command line."""
    announce_failure()
    arguments = parse()
    config = load_config(arguments.config, arguments.plugins)
    from ppdet.engine.distributed.env import world_size
    from ppdet.engine.run_name import run_folder
    from ppdet.engine.trainer import Trainer
    from ppdet.engine.training.callbacks import Callback
    from ppdet.engine.training.run_folder import check_start
    from ppdet.engine.training.scalars import VisualDLWriter

    merge_config(arguments.opt, config)
    explain_ignored(arguments, IGNORED)
    if arguments.enable_ce:
        merge_config({"seed": 0}, config)
    if arguments.save_prediction_only:
        merge_config({"save_prediction_only": True}, config)
    settings = RuntimeSettings.from_config(config)
    use_vdl = arguments.use_vdl or settings.use_vdl
    folders = [run_folder(config)]
    if use_vdl:
        folders.append(Path(arguments.vdl_log_dir or settings.vdl_log_dir or folders[0] / "vdl"))
    if arguments.eval and settings.output_eval:
        folders.append(Path(settings.output_eval))
    if world_size() == 1:  # several processes check this later, when they can notify each other of a failure
        for folder in folders:  # checked before the data and the model are loaded, which takes long
            writable_dir(folder)
        if not arguments.replay:
            check_start(folders[0], arguments.resume, arguments.overwrite)
    trainer = Trainer(config, amp=arguments.amp or settings.amp, deterministic=arguments.enable_ce)
    if arguments.replay:
        trainer.replay(arguments.replay, arguments.resume)
        return
    callbacks: tuple[Callback, ...] = ()
    if use_vdl:
        callbacks = (VisualDLWriter(folders[1]),)
    trainer.train(arguments.eval, arguments.resume, callbacks, arguments.overwrite)


if __name__ == "__main__":
    main_guard(main)
