"""A few images of a COCO-format data set as a data set of their own, for instance to learn them by heart.

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
    from deploy.common.interruption import leave_while_importing

    leave_while_importing()

from deploy.common.command_line import Parser, main_guard
from deploy.common.errors import UserError

__all__ = ["make_subset"]


def make_subset(annotations: Path, images: Path, ids: list[int], output: Path) -> dict[str, Any]:
    """Copy images and their annotations to ``output``/{images,instances.json}.

    Args:
        annotations: COCO file.
        images: its image folder.
        ids: image ids to take.
        output: folder to make; it must not exist.

    Returns:
        the content of the new annotation file; all categories stay, so that class numbers do.

    Raises:
        UserError: what is wrong, in one line.
    """
    # Here, because it takes seconds to import Paddle with it: a wrong command line is answered before.
    from ppdet.data.source.annotations import group_annotations, read_annotations

    if output.exists():
        raise UserError(f"{output} exists already: choose another --output")
    content = read_annotations(str(annotations))
    group_annotations(content, str(annotations))  # checks them
    by_id = {image["id"]: image for image in content["images"]}
    missing = [i for i in ids if i not in by_id]
    if missing:
        raise UserError(f"{annotations} has no image {missing[0]}: check --image_ids")
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
                raise UserError(f"the image {source} does not exist: check --image_dir")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (folder / "instances.json").write_text(json.dumps(subset), encoding="utf-8")
        folder.chmod(0o755)
        os.replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return subset


def main() -> None:
    """Run from the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anno_path", type=Path, required=True, help="COCO annotation file")
    parser.add_argument("--image_dir", type=Path, required=True, help="folder of its images")
    parser.add_argument("--image_ids", type=_ids, required=True, help="ids, separated by commas")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    subset = make_subset(arguments.anno_path, arguments.image_dir, arguments.image_ids, arguments.output)
    print(f"{len(subset['images'])} images, {len(subset['annotations'])} objects in {arguments.output}")


def _ids(text: str) -> list[int]:
    """Read image ids, separated by commas; a repeated one counts once."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ids separated by commas, got '{text[:40]}'") from None


if __name__ == "__main__":
    main_guard(main)
