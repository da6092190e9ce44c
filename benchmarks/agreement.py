"""Measure the agreement of an exported model with its checkpoint on a data set.

    python benchmarks/agreement.py -c CONFIG -o weights=PATH --model_dir output_inference/NAME [--batch_size 4]

The images of ``EvalDataset`` are predicted with the model in dynamic graph mode (using the data loader of the project)
and with the deployed predictor (using its own pre-processing and Paddle Inference). The detections are matched one to
one, and both are evaluated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from deploy.common.command_line import main_guard, positive_int  # noqa: E402


def parse() -> argparse.Namespace:
    """Parse the command line."""
    from ppdet.utils.cli import ArgsParser

    parser = ArgsParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="folder of the exported model")
    parser.add_argument("--batch_size", type=positive_int, default=1, help="images per batch")
    parser.add_argument("--count", type=positive_int, default=None, help="number of images; all by default")
    parser.add_flag("--enable_mkldnn", help="run the exported graph with oneDNN")
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def _mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU of two bitmaps; it is 1 if both are empty."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0


def compare(predicted: Any, reference: Any) -> tuple[int, float, float, float]:
    """Match two `Detections` of an image one to one by label and location.

    Returns:
        The number of matched reference detections, and the largest score difference, box difference in pixels and
        1 - mask IoU of the matches.
    """
    remaining = list(range(len(predicted)))
    matched, worst = 0, [0.0, 0.0, 0.0]
    for index in range(len(reference)):
        near = [
            candidate
            for candidate in remaining
            if predicted.rows[candidate, 0] == reference.rows[index, 0]
            and abs(predicted.rows[candidate, 1] - reference.rows[index, 1]) < 1e-4
            and np.abs(predicted.rows[candidate, 2:] - reference.rows[index, 2:]).max() < 0.5
        ]
        if not near:
            continue
        best = min(near, key=lambda candidate: float(np.abs(predicted.rows[candidate] - reference.rows[index]).sum()))
        mask_error = 0.0
        if reference.masks is not None:
            mask_error = 1.0 - _mask_iou(predicted.bitmap(best), reference.bitmap(index))
        if mask_error >= 0.01:
            continue
        remaining.remove(best)
        matched += 1
        differences = (
            abs(float(predicted.rows[best, 1] - reference.rows[index, 1])),
            float(np.abs(predicted.rows[best, 2:] - reference.rows[index, 2:]).max()),
            mask_error,
        )
        worst = [max(pair) for pair in zip(worst, differences)]
    return matched, worst[0], worst[1], worst[2]


def main() -> None:
    """Compare the detections and print the result."""
    arguments = parse()
    from deploy.common.image_io import read_image
    from deploy.common.model_outputs import split_outputs
    from deploy.python import Predictor
    from ppdet.core.workspace import load_config, merge_config
    from ppdet.engine.data import EvalData
    from ppdet.engine.evaluator import predict_batch, to_host
    from ppdet.engine.session import Session
    from ppdet.utils.errors import UserError

    config = load_config(arguments.config)
    merge_config(arguments.opt, config)
    merge_config({"use_gpu": False, "EvalReader": {"batch_size": arguments.batch_size}}, config)
    predictor = Predictor(arguments.model_dir, enable_mkldnn=arguments.enable_mkldnn)
    session = Session(config)
    data = EvalData.from_config(config)
    session.load_weights()
    session.model.eval()
    metrics = {"checkpoint": data.metric(session.model), "exported": data.metric(session.model)}
    extra_inputs = [field.name for field in session.model.extra_inputs]
    total = matched = images = extra = 0
    worst = np.zeros(3)
    for batch in data.loader:
        if arguments.count is not None and images >= arguments.count:
            break
        with session.runtime:
            outputs = predict_batch(session.model, batch)
        facts = to_host({name: value for name, value in batch.items() if name != "image"})
        pictures = [read_image(path) for path in batch["im_path"]]
        exported = predictor.predict(pictures, {name: facts[name] for name in extra_inputs})
        metrics["checkpoint"].update(facts, outputs)
        metrics["exported"].add(facts["im_id"], exported)
        about = predictor.class_names, predictor.category_ids, predictor.mask_threshold
        for predicted, reference in zip(exported, split_outputs(outputs, facts["orig_size"], *about)):
            pairs, *differences = compare(predicted, reference)
            total, matched, extra = total + len(reference), matched + pairs, extra + len(predicted) - len(reference)
            worst = np.maximum(worst, differences)
        images += len(exported)
        print(f"{images} images, {matched} of {total} detections matched", file=sys.stderr)
    if not images:
        raise UserError("there are no images to compare; check EvalDataset")
    print(f"{images} images in batches of {arguments.batch_size}: {matched} of {total} detections matched")
    print(f"difference in the number of detections: {extra:+d}")
    print(
        f"largest differences between matches: score {worst[0]:.1e}, box {worst[1]:.1e} px, mask 1 - IoU {worst[2]:.1e}"
    )
    if arguments.count is None:
        for name, metric in metrics.items():
            metric.accumulate()
            for kind, numbers in (metric.get_results() or {}).items():
                print(f"{name}: {kind} AP {numbers[0]:.6f}, AP50 {numbers[1]:.6f}")


if __name__ == "__main__":
    main_guard(main)
