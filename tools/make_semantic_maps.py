"""Generate semantic maps from COCO annotations, for training HTC without downloading COCO-Stuff's maps.

    python tools/make_semantic_maps.py --instances dataset/coco/annotations/instances_train2017.json \
        --output dataset/coco/semantic/train2017
    python tools/make_semantic_maps.py --instances …/instances_train2017.json --stuff …/stuff_train2017.json \
        --labels category_id --output dataset/coco/stuffthingmaps/train2017
"""

from __future__ import annotations

import argparse
import os

import _start  # noqa: F401  must be the first import: it adds this checkout to sys.path

from deploy.common.command_line import Parser, main_guard, non_empty


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Generate semantic maps (PNG, 255 = ignore) from COCO annotations.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--instances", metavar="FILE", help="annotation file of the thing classes (instances_*.json)")
    parser.add_argument("--stuff", metavar="FILE", help="annotation file of the stuff classes (stuff_*.json)")
    parser.add_argument("--output", type=non_empty, metavar="DIR", required=True, help="output folder")
    parser.add_argument(
        "--labels",
        choices=("class", "category_id"),
        help="label of a thing: its class 0..K-1 or its category id - 1 (default: class; with --stuff: category_id)",
    )
    parser.add_argument(
        "--background",
        choices=("ignore", "class"),
        default="ignore",
        help="label of all other pixels: 255 or an additional class (default: ignore)",
    )
    parser.add_argument("--suffix", default=".png", help="suffix of the file names (default: .png)")
    return parser.parse_args()


def main() -> None:
    """Generate the maps according to the command line."""
    args = parse_args()
    from ppdet.data.semantic_maps import SemanticMapMaker, write_maps

    labels = args.labels or ("category_id" if args.stuff else "class")
    maker = SemanticMapMaker(args.instances, args.stuff, labels, args.background)
    count = write_maps(maker, args.output, args.suffix)
    print(f"{count} semantic maps have been written to {args.output}. Add this to the configuration:")
    print(f"  semantic_num_classes: {maker.num_classes}")
    print(f"  TrainDataset: {{semantic: {{kind: png, dir: {os.path.abspath(args.output)}, suffix: {args.suffix}}}}}")


if __name__ == "__main__":
    main_guard(main)
