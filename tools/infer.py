"""Predict on images: ``python tools/infer.py -c CONFIG -o weights=PATH --infer_img=a.jpg``."""

from __future__ import annotations

import argparse

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.atomic import writable_dir
from deploy.common.command_line import non_empty, probability
from deploy.common.image_files import Images, find_images
from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine.compat import add_ignored, explain_ignored
from ppdet.utils.cli import ArgsParser, main_guard, str2bool

IGNORED = {
    "--slim_config": "this project does not support model compression",
    "--use_vdl": "visualizations are written to --output_dir",
    "--vdl_log_dir": "visualizations are written to --output_dir",
    "--do_eval": "use tools/eval.py",
    "--rtn_im_file": "results always contain the file names",
    "--slice_infer": "images are always processed as a whole",
    "--slice_size": "images are always processed as a whole",
    "--overlap_ratio": "images are always processed as a whole",
    "--combine_method": "images are always processed as a whole",
    "--match_threshold": "images are always processed as a whole",
    "--match_metric": "images are always processed as a whole",
}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgsParser(description=__doc__)
    parser.add_argument(
        "--infer_img", nargs="+", default=None, metavar="FILE", help="images, or patterns such as '*.jpg'"
    )
    parser.add_argument(
        "--infer_dir",
        nargs="+",
        default=None,
        metavar="DIR",
        help="folders of images, searched recursively, or patterns such as 'photos/*.jpg'",
    )
    parser.add_argument("--infer_list", default=None, metavar="FILE", help="text file with one image path per line")
    parser.add_argument(
        "--output_dir", type=non_empty, default="output", metavar="DIR", help="folder for visualizations and results"
    )
    parser.add_argument(
        "--draw_threshold",
        type=probability,
        default=None,
        metavar="P",
        help="minimum score of drawn objects, 0 to 1; None: 0.5",
    )
    parser.add_argument(
        "--save_threshold", type=probability, default=0.5, metavar="P", help="minimum score of saved results, 0 to 1"
    )
    parser.add_flag("--save_results", help="write bbox.json and mask.json in COCO's format")
    parser.add_argument("--visualize", nargs="?", const=True, default=True, type=str2bool, help="draw the detections")
    parser.add_flag("--amp", help="use mixed precision")
    add_ignored(parser, IGNORED)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def main() -> int:
    """Predict according to the command line and return the exit status."""
    arguments = parse()
    named = (arguments.infer_img, arguments.infer_dir, arguments.infer_list)
    images = _find(arguments) if any(named) else None
    config = load_config(arguments.config, arguments.plugins)
    from ppdet.engine.data import predict_loader
    from ppdet.engine.predictor import PredictOptions, predict_images
    from ppdet.engine.session import Session

    merge_config(arguments.opt, config)
    explain_ignored(arguments, IGNORED)
    images = images or _find(arguments)
    settings = RuntimeSettings.from_config(config)
    threshold = arguments.draw_threshold
    options = PredictOptions(
        output_dir=arguments.output_dir,
        draw_threshold=settings.draw_threshold if threshold is None else threshold,
        save_threshold=arguments.save_threshold,
        save_results=arguments.save_results,
        visualize=arguments.visualize,
    )
    writable_dir(options.output_dir)  # checked before the data and the model are loaded, which takes long
    session = Session(config, amp=arguments.amp or settings.amp)
    session.load_weights()
    loader = predict_loader(config, images.paths, session.categories)
    with session.runtime:
        return predict_images(session.model, loader, images, options, session.precision)


def _find(arguments: argparse.Namespace) -> Images:
    """Find the input images and make sure that the visualizations do not overwrite them."""
    images = find_images(arguments.infer_img, arguments.infer_dir, arguments.infer_list, arguments.output_dir)
    if arguments.visualize:
        images.check_not_overwritten(arguments.output_dir)
    return images


if __name__ == "__main__":
    main_guard(main)
