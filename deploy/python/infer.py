"""Predict with an exported model: ``python deploy/python/infer.py --model_dir DIR --image_file a.jpg``.

Requires Paddle, NumPy, OpenCV and PyYAML only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.common.interruption import exit_on_interrupt  # noqa: E402

if __name__ == "__main__":
    exit_on_interrupt()

import numpy as np  # noqa: E402

from deploy.common.atomic import writable_dir  # noqa: E402
from deploy.common.command_line import main_guard  # noqa: E402
from deploy.common.errors import UserError  # noqa: E402
from deploy.common.extra_inputs import read_extra_inputs  # noqa: E402
from deploy.common.image_files import Images, find_images  # noqa: E402
from deploy.common.output import Output  # noqa: E402
from deploy.common.printable import one_line  # noqa: E402
from deploy.common.progress import print_lines  # noqa: E402
from deploy.python.benchmark import measure  # noqa: E402
from deploy.python.images import predict_images  # noqa: E402
from deploy.python.options import explain_ignored, parse  # noqa: E402
from deploy.python.predictor import Predictor  # noqa: E402
from deploy.python.video import open_camera, open_video, predict_stream  # noqa: E402


def main() -> int:
    """Run the command line; return the exit status."""
    options = parse()
    explain_ignored(options)
    images, stream = Images([], []), None
    if options.video_file:
        stream = open_video(options.video_file)
    elif options.camera_id >= 0:
        stream = open_camera(options.camera_id)
    else:
        images = find_images(options.image_file, options.image_dir, options.image_list, options.output_dir)
        if options.save_images and not options.run_benchmark:
            images.check_not_overwritten(options.output_dir)
    if not options.run_benchmark:
        writable_dir(options.output_dir)  # before the model is loaded, which takes time
    predictor = Predictor(
        options.model_dir, options.device, options.run_mode, options.cpu_threads, options.enable_mkldnn
    )
    threshold = predictor.draw_threshold if options.threshold is None else options.threshold
    names = images.names if stream is None else [Path(stream.name).name]
    values = _extra_inputs(options.extra_inputs, predictor, names)
    if options.run_benchmark:
        timing = measure(predictor, images.paths, options.batch_size, threshold, values)
        print_lines("\n".join(timing.lines()))
        return _report(timing.complaints + images.unreadable)
    output = Output(
        folder=options.output_dir,
        has_masks=predictor.has_masks,
        save_results=options.save_results,
        save_masks=options.save_masks,
        save_polygons=options.save_polygons,
        has_boxes=predictor.has_boxes,
    )
    common = (output, threshold, options.batch_size, options.save_images)
    if stream is not None:
        return predict_stream(predictor, stream, *common, values[0] if values else None)
    return predict_images(predictor, images, *common, values)


def _extra_inputs(path: str | None, predictor: Predictor, names: Sequence[str]) -> list[dict[str, np.ndarray]] | None:
    """Read the extra inputs of the named images, if the model requires any.

    Raises:
        UserError: they are missing, do not fit, or the model requires none.
    """
    required = ", ".join(map(str, predictor.extra_inputs))
    if path is None:
        if required:
            raise UserError(
                f"the model requires extra inputs for each image, {required}: add --extra_inputs FILE.json, such as "
                f'{{"{one_line(names[0], 60) if names else "a.jpg"}": {{NAME: VALUES, ...}}}}'
            )
        return None
    if not required:
        raise UserError("the model requires no extra inputs: leave --extra_inputs out")
    return read_extra_inputs(path, names, predictor.extra_inputs)


def _report(complaints: list[str]) -> int:
    """Print the files that could not be measured; return the exit status."""
    if not complaints:
        return 0
    for complaint in complaints:
        print(f"skipped: {one_line(complaint)}", file=sys.stderr)
    files = "1 file was" if len(complaints) == 1 else f"{len(complaints)} files were"
    print(f"error: {files} skipped, see above", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main_guard(main)
