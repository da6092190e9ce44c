"""The command line of ``deploy/python/infer.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from deploy.common.command_line import Parser, int_in_range, non_empty, positive_int, probability, thread_count
from deploy.common.errors import UserError
from deploy.common.machine import available_cores
from deploy.common.progress import print_lines
from deploy.python.predictor import DEVICES, RUN_MODES

__all__ = ["explain_ignored", "parse"]

_TENSORRT = "it belongs to TensorRT, which this project was never run with"
_WHOLE = "images are predicted whole"
_OTHER_TASK = "it belongs to another task than instance segmentation"

IGNORED: Mapping[str, str] = {
    "--enable_mkldnn_bfloat16": "everything is computed in float32",
    "--use_gpu": "use --device GPU",
    "--trt_min_shape": _TENSORRT,
    "--trt_max_shape": _TENSORRT,
    "--trt_opt_shape": _TENSORRT,
    "--trt_calib_mode": _TENSORRT,
    "--collect_trt_shape_info": _TENSORRT,
    "--tuned_trt_shape_file": _TENSORRT,
    "--use_coco_category": "results have the data set's category ids anyway",
    "--use_fd_format": "the exported folder is Paddle Inference's own",
    "--task_type": "the exported folder says what it is",
    "--slice_infer": _WHOLE,
    "--slice_size": _WHOLE,
    "--overlap_ratio": _WHOLE,
    "--combine_method": _WHOLE,
    "--match_threshold": _WHOLE,
    "--match_metric": _WHOLE,
    "--save_mot_txts": _OTHER_TASK,
    "--save_mot_txt_per_img": _OTHER_TASK,
    "--scaled": _OTHER_TASK,
    "--tracker_config": _OTHER_TASK,
    "--reid_model_dir": _OTHER_TASK,
    "--reid_batch_size": _OTHER_TASK,
    "--use_dark": _OTHER_TASK,
    "--action_file": _OTHER_TASK,
    "--window_size": _OTHER_TASK,
    "--random_pad": _OTHER_TASK,
}
"""PaddleDetection's options without a meaning here, and why."""


_CAMERA = int_in_range(-1, 9999)
"""OpenCV's numbers of cameras; those above 99 choose the interface, too."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line; None takes the process's.

    Raises:
        UserError: it is wrong.
    """
    parser = Parser(description="Detect with an exported model: images, a video or a camera.")
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="folder written by tools/export_model.py")
    parser.add_argument(
        "--image_file", nargs="+", default=None, metavar="FILE", help="images, or patterns such as '*.jpg'"
    )
    parser.add_argument(
        "--image_dir",
        nargs="+",
        default=None,
        metavar="DIR",
        help="folders of images, with the folders in them; or patterns such as 'photos/*.jpg'",
    )
    parser.add_argument("--image_list", default=None, metavar="FILE", help="text file with one image path a line")
    parser.add_argument("--video_file", default=None, metavar="FILE", help="a video")
    parser.add_argument("--camera_id", type=_CAMERA, default=-1, metavar="N", help="a camera, 0 = the first; -1 = none")
    parser.add_argument("--batch_size", type=positive_int, default=1, metavar="N", help="images or frames at a time")
    parser.add_argument(
        "--threshold",
        type=probability,
        default=None,
        metavar="P",
        help="lowest score, 0 to 1; None: draw_threshold of the export",
    )
    parser.add_argument(
        "--extra_inputs",
        default=None,
        metavar="FILE",
        help='JSON file with the extra inputs that some models require: {"a.jpg": {"prompt": [1, 2]}, ...}',
    )
    parser.add_argument(
        "--output_dir", type=non_empty, default="output", metavar="DIR", help="folder of everything that is written"
    )
    parser.add_argument("--device", type=str.upper, default="CPU", choices=DEVICES, help="where to compute")
    parser.add_argument("--run_mode", default="paddle", choices=RUN_MODES, help="paddle; the others are refused")
    parser.add_flag("--run_benchmark", help="measure the time instead of writing results")
    parser.add_flag("--enable_mkldnn", default=True, help="compute with oneDNN on the CPU")
    parser.add_argument(
        "--cpu_threads", type=thread_count, default=available_cores(), metavar="N", help="threads on the CPU"
    )
    parser.add_flag("--save_images", default=True, help="write pictures, or the drawn video")
    parser.add_flag("--save_results", help="write bbox.json and mask.json in COCO's result format")
    parser.add_flag("--save_masks", help="write masks/NAME_000.png, 0 and 255, for each object")
    parser.add_flag("--save_polygons", help="write polygons/NAME.json for each image")
    for name, reason in IGNORED.items():
        parser.add_argument(name, nargs="?", const=True, default=None, metavar="…", help=f"has no effect: {reason}")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuse no source or several."""
    given = {
        "--image_file": options.image_file is not None,
        "--image_dir or --image_list": options.image_dir is not None or options.image_list is not None,
        "--video_file": options.video_file is not None,
        "--camera_id": options.camera_id >= 0,
    }
    chosen = [name for name, there in given.items() if there]
    if not chosen:
        raise UserError("nothing to predict: add --image_file, --image_dir, --image_list, --video_file or --camera_id")
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other")
    if options.run_benchmark and (given["--video_file"] or given["--camera_id"]):
        raise UserError("--run_benchmark measures on images: use it with --image_file, --image_dir or --image_list")


def explain_ignored(options: argparse.Namespace) -> None:
    """Say of each option without a meaning, if it was given and not switched off, why it has none."""
    for name, reason in IGNORED.items():
        value = getattr(options, name.lstrip("-"))
        if value is None or str(value).lower() in ("false", "none", "0", ""):
            continue
        print_lines(f"{name} has no effect: {reason}")
