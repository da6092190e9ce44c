"""Measure the inference speed: images/s, peak memory, and the time of each part of the model.

    python benchmarks/inference.py -c configs/htc/htc_r50_fpn_1x_coco.yml --images FOLDER [-o weights=PATH]

The same images are processed by the model in dynamic graph mode and by the exported graph, with and without oneDNN and,
if it has been built (``python -m ppdet.ext_op``), the C++ extension. Each variant runs in its own process, one image at
a time. Without weights, the model is initialised randomly and the score threshold is disabled, so that every image has
100 detections, as in a crowded image. The time of a part is the difference between graphs that end after different
parts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from deploy.common.command_line import Parser, main_guard, positive_int, thread_count  # noqa: E402
from deploy.common.errors import UserError  # noqa: E402

WAYS = ("dygraph", "dygraph + extension", "exported", "exported + oneDNN", "exported + oneDNN + extension")
_NO_PARTS = ("pre-process", "paste + encode", "detections", "memory")
"""Keys of the measurements that are not parts of the model."""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", default=str(ROOT / "configs/htc/htc_r50_fpn_1x_coco.yml"))
    parser.add_argument("-o", "--opt", nargs="*", default=[], help="KEY=VALUE, as for the tools")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--count", type=positive_int, default=4, help="number of images, sorted by name")
    parser.add_argument(
        "--sizes", type=_size, nargs="+", default=["1333x800", "640x400"], help="long x short side in pixels"
    )
    parser.add_argument("--threads", type=thread_count, default=2)
    parser.add_argument(
        "--repeat", type=positive_int, default=2, help="number of runs per image, of which the fastest counts"
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--output", default=None, help="output file for the tables (Markdown)")
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def _size(text: str) -> str:
    """Validate a size such as ``1333x800``."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 1 <= int(side) <= 100_000 for side in sides):
        raise argparse.ArgumentTypeError(f"expected LONGxSHORT in pixels such as 1333x800, got '{text[:40]}'")
    return text


def part_nets(model: Any) -> dict[str, Any]:
    """Return layers that run the model up to the end of each of its parts."""
    from ppdet.export.nets import ExportNet
    from ppdet.structures.batch import Batch

    class PartNet(ExportNet):
        def __init__(self, part: Any, complete: bool) -> None:
            super().__init__(model)
            self.part, self.complete = part, complete

        def forward(self, inputs):  # type: ignore[no-untyped-def]
            first, *others = self.part(Batch.from_inputs(self._by_name(inputs)))
            if self.complete:
                return (first, *others)
            return (first + sum([x.sum() for x in inputs]) * 0.0, *others)  # every input of a graph has to be used

    parts = model.parts()
    return {name: PartNet(part, name == list(parts)[-1]) for name, part in parts.items()}


def measure(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the seconds of each part (best of all runs, averaged over images) and the peak memory for each size."""
    import paddle

    from ppdet import ext_op
    from ppdet.checkpoint.weights import load_weights
    from ppdet.core.switches import switched
    from ppdet.core.workspace import load_config, merge_config
    from ppdet.engine.model_and_data import build_architecture
    from ppdet.modeling.fold import fold_batch_norms
    from ppdet.utils.cli import parse_overrides

    config = load_config(arguments.config)
    merge_config(parse_overrides(arguments.opt), config)
    merge_config({"use_gpu": False}, config)
    has_weights = any(option.startswith("weights=") for option in arguments.opt)
    if not has_weights:
        merge_config({"BBoxPostProcess": {"nms": {"score_threshold": 0.0}}}, config)
    paddle.set_device("cpu")
    paddle.base.core.set_num_threads(arguments.threads)
    if "extension" in way:
        ext_op.require()
    paddle.seed(0)
    model = build_architecture(config)
    if has_weights:
        load_weights(model, config.weights)
    model.eval()
    if "exported" in way:
        fold_batch_norms(model)
    results: dict[str, Any] = {}
    with switched(extension="extension" in way):
        runners = {end: _runner(way, net, arguments.threads) for end, net in part_nets(model).items()}
        for size in arguments.sizes:
            results[size] = _one_size(runners, model, [int(side) for side in size.split("x")], arguments)
    return results


def _runner(way: str, net: Any, threads: int) -> Any:
    """Return a function that maps inputs to outputs, both NumPy arrays."""
    import paddle

    net.eval()
    if "dygraph" in way:

        def eager(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            with paddle.no_grad():
                tensors = [paddle.to_tensor(inputs[field.name]) for field in net.fields]
                return [tensor.numpy() for tensor in net(tensors)]

        return eager
    from paddle.inference import Config, create_predictor

    from ppdet.export.exporter import save_graph
    from ppdet.export.nets import input_specs

    with tempfile.TemporaryDirectory() as folder:
        save_graph(net, input_specs(net.fields, [3, None, None]), Path(folder))
        graph = next(path for path in Path(folder).iterdir() if path.suffix != ".pdiparams")
        settings = Config(str(graph), str(Path(folder) / "model.pdiparams"))
        settings.disable_gpu()
        settings.disable_glog_info()
        settings.set_cpu_math_library_num_threads(threads)
        if "oneDNN" in way:
            settings.enable_mkldnn()
        elif hasattr(settings, "disable_onednn"):
            settings.disable_onednn()
        predictor = create_predictor(settings)

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(inputs[name])
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


def _one_size(runners: dict[str, Any], model: Any, size: list[int], arguments: argparse.Namespace) -> dict[str, float]:
    """Measure the seconds of each part, averaged over images, for a size [long, short], and the peak memory in MB."""
    from deploy.common.extra_inputs import ExtraInput, ExtraInputs
    from deploy.common.image_files import find_images
    from deploy.common.image_io import read_image
    from deploy.common.model_outputs import split_outputs
    from deploy.common.pixels import keep_ratio_size, normalize, pad_to, resize_image, round_up

    paths = find_images(None, arguments.images, None).paths
    extra = ExtraInputs([ExtraInput(*field) for field in model.extra_inputs])
    blank = extra.stack([extra.blank()])
    seconds: dict[str, float] = {}
    for path in paths[: arguments.count]:
        for end, run in runners.items():
            best: dict[str, float] = {}
            for _ in range(arguments.repeat):
                begun = time.perf_counter()
                image = read_image(path)
                height, width = image.shape[:2]
                new = keep_ratio_size(height, width, [min(size), max(size)])
                pixels = normalize(resize_image(image, new), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], True)
                padded = pad_to(pixels.transpose(2, 0, 1), (round_up(new[0], 32), round_up(new[1], 32)), 0.0)
                inputs = {
                    "image": np.ascontiguousarray(padded[None]),
                    "im_shape": np.array([new], np.float32),
                    "scale_factor": np.array([[new[0] / height, new[1] / width]], np.float32),
                    **blank,
                }
                prepared = time.perf_counter()
                outputs = run(inputs)
                done = time.perf_counter()
                times = {"pre-process": prepared - begun, end: done - prepared}
                if end == list(runners)[-1]:
                    named = dict(zip(model.output_names, outputs))
                    split_outputs(named, [(height, width)], [""] * 999, range(1, 1000))[0].to_coco(1)
                    times["paste + encode"] = time.perf_counter() - done
                    times["detections"] = float(len(outputs[0]))
                for name, value in times.items():
                    best[name] = min(value, best.get(name, np.inf))
            for name, value in best.items():
                if name != "pre-process" or end == next(iter(runners)):
                    seconds[name] = seconds.get(name, 0.0) + value / min(arguments.count, len(paths))
    seconds["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds


def tables(results: dict[str, dict[str, dict[str, float]]], sizes: list[str]) -> str:
    """Format all measurements as Markdown tables."""
    lines = []
    for size in sizes:
        ends = [name for name in next(iter(results.values()))[size] if name not in _NO_PARTS]
        columns = ["variant", "images/s", "s/image", "pre-process", *ends, "paste + encode", "peak memory, MB"]
        lines += [f"### {size}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for way, measurements in results.items():
            times = measurements[size]
            parts = [times[end] - before for end, before in zip(ends, [0.0, *(times[end] for end in ends)])]
            whole = times["pre-process"] + sum(parts) + times["paste + encode"]
            cells = [f"{1 / whole:.3f}", f"{whole:.2f}", f"{times['pre-process']:.3f}", *(f"{x:.2f}" for x in parts)]
            cells += [f"{times['paste + encode']:.3f}", f"{times['memory']:.0f}"]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure every variant in its own process and print the tables."""
    arguments = parse()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return
    from deploy.common.ext_library import library

    results = {}
    for way in arguments.ways:
        if "extension" in way and not library().is_file():
            print(f"{way}: skipped because the extension has not been built", file=sys.stderr)
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", way]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "GLOG_minloglevel": "2"})
        if done.returncode:
            raise UserError(f"the measurement of '{way}' failed; see the output above")
        results[way] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{way}: measured", file=sys.stderr)
    text = tables(results, arguments.sizes)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main_guard(main)
