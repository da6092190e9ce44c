"""How closely an exported folder agrees with the checkpoint that it was made from, on a data set.

    python benchmarks/agreement.py -c CONFIG -o weights=PATH --model_dir output_inference/NAME [--batch_size 4]

Reads the images of ``EvalDataset``, predicts each batch with the model (dygraph, through the project's reader) and with
the deployed predictor (its own pre-processing, Paddle Inference), matches the detections one to one and evaluates both.
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
    """Read the command line."""
    from ppdet.utils.cli import ArgsParser

    parser = ArgsParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="the exported folder")
    parser.add_argument("--batch_size", type=positive_int, default=1)
    parser.add_argument("--count", type=positive_int, default=None, help="images compared, all by default")
    parser.add_flag("--enable_mkldnn", help="run the exported graph with oneDNN")
    arguments: argparse.Namespace = parser.parse_args()
    return arguments


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two bitmaps; two empty ones are the same."""
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 1.0


def compare(own: Any, golden: Any) -> tuple[int, float, float, float]:
    """Match two `Detections` of an image one to one by label and place.

    Returns:
        golden detections with a twin, and the largest score difference, box difference in pixels and 1 - mask IoU of
        those pairs.
    """
    left = list(range(len(own)))
    matched, worst = 0, [0.0, 0.0, 0.0]
    for index in range(len(golden)):
        near = [
            place
            for place in left
            if own.rows[place, 0] == golden.rows[index, 0]
            and abs(own.rows[place, 1] - golden.rows[index, 1]) < 1e-4
            and np.abs(own.rows[place, 2:] - golden.rows[index, 2:]).max() < 0.5
        ]
        if not near:
            continue
        place = min(near, key=lambda place: float(np.abs(own.rows[place] - golden.rows[index]).sum()))
        miss = 0.0
        if golden.masks is not None:
            miss = 1.0 - _overlap(own.bitmap(place), golden.bitmap(index))
        if miss >= 0.01:
            continue
        left.remove(place)
        matched += 1
        found = (
            abs(float(own.rows[place, 1] - golden.rows[index, 1])),
            float(np.abs(own.rows[place, 2:] - golden.rows[index, 2:]).max()),
            miss,
        )
        worst = [max(pair) for pair in zip(worst, found)]
    return matched, worst[0], worst[1], worst[2]


def main() -> None:
    """Compare and print."""
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
    metrics = {"checkpoint": data.metric(), "exported": data.metric()}
    total = matched = images = extra = 0
    worst = np.zeros(3)
    for batch in data.loader:
        if arguments.count is not None and images >= arguments.count:
            break
        outputs = predict_batch(session.model, batch)
        facts = to_host({name: value for name, value in batch.items() if name != "image"})
        pictures = [read_image(path) for path in batch["im_path"]]
        found = predictor.predict(pictures)
        metrics["checkpoint"].update(facts, outputs)
        metrics["exported"].add(facts["im_id"], found)
        about = predictor.class_names, predictor.category_ids, predictor.mask_threshold
        for one, golden in zip(found, split_outputs(outputs, facts["orig_size"], *about)):
            pairs, *differences = compare(one, golden)
            total, matched, extra = total + len(golden), matched + pairs, extra + len(one) - len(golden)
            worst = np.maximum(worst, differences)
        images += len(found)
        print(f"{images} images, {matched} of {total} detections have their twin", file=sys.stderr)
    if not images:
        raise UserError("there are no images to compare; check EvalDataset")
    print(f"{images} images in batches of {arguments.batch_size}: {matched} of {total} detections have their twin")
    print(f"the exported graph has {extra:+d} detections")
    print(f"largest difference of pairs: score {worst[0]:.1e}, box {worst[1]:.1e} px, mask 1 - IoU {worst[2]:.1e}")
    if arguments.count is None:
        for name, metric in metrics.items():
            metric.accumulate()
            for kind, numbers in (metric.get_results() or {}).items():
                print(f"{name}: {kind} AP {numbers[0]:.6f}, AP50 {numbers[1]:.6f}")


if __name__ == "__main__":
    main_guard(main)
