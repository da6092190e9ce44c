"""Extract a few images of a data set in COCO format, for example to overfit them.

    python dataset/make_subset.py --anno_path dataset/coco/annotations/instances_train2017.json \
        --image_dir dataset/coco/train2017 --image_ids 60623,86408 --output dataset/subset
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from deploy.common.interruption import exit_on_interrupt

    exit_on_interrupt()

from deploy.common.command_line import Parser, main_guard
from deploy.common.errors import UserError

__all__ = ["make_subset"]


def make_subset(annotations: Path, images: Path, ids: list[int], output: Path) -> dict[str, Any]:
    """Copy images and their annotations to ``output``/{images,instances.json}.

    Args:
        annotations: COCO annotation file.
        images: image folder of the annotation file.
        ids: ids of the images to extract.
        output: folder to create; it must not exist.

    Returns:
        The content of the new annotation file. All categories are kept, so that the class indices do not change.

    Raises:
        UserError: an input is missing or invalid, or the output folder exists.
    """
    # Imported here because it also imports Paddle, which takes seconds; invalid command lines are reported before.
    from ppdet.data.source.annotations import group_annotations, read_annotations

    if output.exists():
        raise UserError(f"{output} already exists; choose another --output")
    content = read_annotations(str(annotations))
    group_annotations(content, str(annotations))  # validates the annotations
    by_id = {image["id"]: image for image in content["images"]}
    missing = [i for i in ids if i not in by_id]
    if missing:
        raise UserError(f"{annotations} does not contain the image {missing[0]}; check --image_ids")
    chosen = set(ids)
    subset = {
        "images": [by_id[i] for i in ids],
        "annotations": [a for a in content.get("annotations") or [] if a["image_id"] in chosen],
        "categories": content["categories"],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=output.name + ".partial-", dir=output.parent))
    try:
        (folder / "images").mkdir()
        for image in subset["images"]:
            source, target = images / image["file_name"], folder / "images" / image["file_name"]
            if not source.is_file():
                raise UserError(f"the image {source} does not exist; check --image_dir")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (folder / "instances.json").write_text(json.dumps(subset), encoding="utf-8")
        folder.chmod(0o755)
        os.replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return subset


def main() -> None:
    """Extract the images according to the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anno_path", type=Path, required=True, help="COCO annotation file")
    parser.add_argument("--image_dir", type=Path, required=True, help="image folder of the annotation file")
    parser.add_argument("--image_ids", type=_ids, required=True, help="comma-separated image ids")
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    arguments = parser.parse_args()
    subset = make_subset(arguments.anno_path, arguments.image_dir, arguments.image_ids, arguments.output)
    images, objects = len(subset["images"]), len(subset["annotations"])
    print(f"{images} images with {objects} objects have been written to {arguments.output}")


def _ids(text: str) -> list[int]:
    """Parse comma-separated image ids; duplicates are removed."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected comma-separated ids, got '{text[:40]}'") from None


if __name__ == "__main__":
    main_guard(main)
