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

_TENSORRT = "it configures TensorRT, which this project does not support"
_WHOLE = "images are not sliced"
_OTHER_TASK = "it configures another task than instance segmentation"

IGNORED: Mapping[str, str] = {
    "--enable_mkldnn_bfloat16": "all computations use float32",
    "--use_gpu": "use --device GPU",
    "--trt_min_shape": _TENSORRT,
    "--trt_max_shape": _TENSORRT,
    "--trt_opt_shape": _TENSORRT,
    "--trt_calib_mode": _TENSORRT,
    "--collect_trt_shape_info": _TENSORRT,
    "--tuned_trt_shape_file": _TENSORRT,
    "--use_coco_category": "results always contain the category ids of the data set",
    "--use_fd_format": "only exports for Paddle Inference are supported",
    "--task_type": "the exported model defines the task",
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
"""PaddleDetection's options that are accepted but have no effect, with the reasons."""


_CAMERA = int_in_range(-1, 9999)
"""OpenCV's camera indices; values above 99 also select the driver."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, by default that of the process.

    Raises:
        UserError: the command line is invalid.
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
    parser.add_argument(
        "--batch_size", type=positive_int, default=1, metavar="N", help="number of images or frames per batch"
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        default=None,
        metavar="P",
        help="minimum score from 0 to 1, by default the draw_threshold of the exported model",
    )
    parser.add_argument(
        "--extra_inputs",
        default=None,
        metavar="FILE",
        help='JSON file with the extra inputs that some models require: {"a.jpg": {"prompt": [1, 2]}, ...}',
    )
    parser.add_argument("--output_dir", type=non_empty, default="output", metavar="DIR", help="output folder")
    parser.add_argument("--device", type=str.upper, default="CPU", choices=DEVICES, help="where to compute")
    parser.add_argument(
        "--run_mode", default="paddle", choices=RUN_MODES, help="paddle; the TensorRT modes are not supported"
    )
    parser.add_flag("--run_benchmark", help="measure times instead of writing results")
    parser.add_flag("--enable_mkldnn", default=True, help="use oneDNN on the CPU")
    parser.add_argument(
        "--cpu_threads", type=thread_count, default=available_cores(), metavar="N", help="number of CPU threads"
    )
    parser.add_flag("--save_images", default=True, help="write annotated images or an annotated video")
    parser.add_flag("--save_results", help="write bbox.json and mask.json in COCO's result format")
    parser.add_flag("--save_masks", help="write masks/NAME_000.png with values 0 and 255 for each object")
    parser.add_flag("--save_polygons", help="write polygons/NAME.json for each image")
    for name, reason in IGNORED.items():
        parser.add_argument(name, nargs="?", const=True, default=None, metavar="…", help=f"has no effect: {reason}")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    """Check that there is exactly one kind of input."""
    inputs = {
        "--image_file": options.image_file is not None,
        "--image_dir or --image_list": options.image_dir is not None or options.image_list is not None,
        "--video_file": options.video_file is not None,
        "--camera_id": options.camera_id >= 0,
    }
    chosen = [name for name, is_set in inputs.items() if is_set]
    if not chosen:
        raise UserError("there is no input: add --image_file, --image_dir, --image_list, --video_file or --camera_id")
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} cannot be combined")
    if options.run_benchmark and (inputs["--video_file"] or inputs["--camera_id"]):
        raise UserError("--run_benchmark requires images: use it with --image_file, --image_dir or --image_list")


def explain_ignored(options: argparse.Namespace) -> None:
    """Print the reason for each given option that has no effect, unless its value disables it."""
    for name, reason in IGNORED.items():
        value = getattr(options, name.lstrip("-"))
        if value is None or str(value).lower() in ("false", "none", "0", ""):
            continue
        print_lines(f"{name} has no effect: {reason}")
