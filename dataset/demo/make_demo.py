#!/usr/bin/env python
"""Generate the demo data set: reproducible images with COCO instance annotations and semantic maps.

    python dataset/demo/make_demo.py --output dataset/demo/data

Layout of the result (K thing classes, S stuff classes):
    train/000001.jpg ...  val/000001.jpg ...           images
    annotations/instances_{train,val}.json             COCO; masks are the visible parts, `occlusion` the hidden share
    annotations/semantic_categories.json               labels of the semantic maps: things 0..K-1, stuff K..K+S-1
    stuffthingmaps/{train,val}/000001.png              semantic maps, uint8, every pixel is labelled
    stats.json                                         options and statistics; written last to mark a complete data set
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from deploy.common.interruption import exit_on_interrupt

    exit_on_interrupt()

import cv2
import numpy as np

from dataset.demo.geometry import compress, outlines, run_lengths, tight_box
from dataset.demo.paint import paint
from dataset.demo.scene import Scene, Thing, compose
from dataset.demo.shapes import THINGS
from dataset.demo.stats import statistics, summary
from dataset.demo.textures import STUFF
from deploy.common.command_line import Parser, int_in_range, main_guard, non_empty, non_negative_int, positive_int
from deploy.common.errors import UserError

VERSION = 1
"""Incremented whenever the annotations for the same seed change."""
SPLITS = ("train", "val")
SIZES = (96, 1024)
"""Minimum and maximum square root of the area of an image in pixels."""
RLE_SHARE = 0.15
"""Share of objects annotated with run lengths although polygons would be sufficient."""


def scene_of(seed: int, split: str, index: int, size: int, classes: int) -> tuple[Scene, np.random.Generator]:
    """Return the content of an image, and the random generator for choices about its annotation.

    Each split has its own seed (val: seed + 1) and each image its own random streams, so that a larger data set starts
    with the images of a smaller one.
    """
    split_index = SPLITS.index(split)
    rng = np.random.default_rng([seed + split_index, split_index, index, 0])
    return compose(size, classes, rng, list(THINGS)), rng


def segmentation(mask: np.ndarray, rng: np.random.Generator) -> list[list[int]] | dict[str, Any]:
    """Return the COCO segmentation of a mask, bool [H,W]: polygons, or run lengths if there are holes or at random."""
    rings, holes = outlines(mask)
    as_runs, plain = rng.random() < RLE_SHARE, rng.random() < 0.5
    if not holes and not as_runs:
        return rings
    runs = run_lengths(mask)
    return {"size": list(mask.shape), "counts": runs if plain else compress(runs)}


def annotation(thing: Thing, annotation_id: int, image_id: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return the COCO annotation of the visible part of an object."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": thing.label + 1,
        "segmentation": segmentation(thing.visible, rng),
        "area": int(thing.visible.sum()),
        "bbox": list(tight_box(thing.visible)),
        "iscrowd": 0,
        "occlusion": round(thing.hidden, 4),
    }


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Write an image, grayscale or RGB uint8; an OSError names the file if it cannot be written."""
    done, data = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image, options)
    if not done:
        raise OSError(f"OpenCV cannot encode {path}")
    path.write_bytes(data.tobytes())


def make_split(
    folder: Path, split: str, count: int, size: int, seed: int, classes: int, drawn: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Write the images, semantic maps and annotations of one split and return its statistics."""
    names = list(THINGS)[:classes]
    for part in (folder / split, folder / "stuffthingmaps" / split, folder / "annotations"):
        part.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    stuff_pixels = np.zeros(len(STUFF), np.int64)
    for index in range(count):
        scene, rng = scene_of(seed, split, index, size, classes)
        split_index = SPLITS.index(split)
        picture = paint(scene, classes, np.random.default_rng([seed + split_index, split_index, index, 1]))
        name = f"{index + 1:06d}"
        _write_image(folder / split / f"{name}.jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 94])
        _write_image(folder / "stuffthingmaps" / split / f"{name}.png", scene.semantic, [])
        images.append({"id": index + 1, "file_name": f"{name}.jpg", "width": scene.width, "height": scene.height})
        for thing in scene.things:
            annotations.append(annotation(thing, len(annotations) + 1, index + 1, rng))
        drawn()
        stuff_pixels += np.bincount(scene.semantic.reshape(-1), minlength=classes + len(STUFF))[classes:]
    document = {
        "info": {"description": f"demo set, {split}", "version": str(VERSION), "seed": seed},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name, "supercategory": "thing"} for i, name in enumerate(names)],
    }
    text = json.dumps(document, separators=(",", ":"))
    (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return statistics(images, annotations, names, dict(zip(STUFF, stuff_pixels.tolist())))


def make_demo(
    output: str | Path, train: int = 1000, val: int = 60, size: int = 224, seed: int = 7, classes: int = 6,
    overwrite: bool = False, drawn: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Generate the data set in the folder `output` and return the content of its stats.json.

    `size` is the square root of the area of an image in pixels. If the folder already contains the data set with the
    same options, it is not changed. `drawn` is called after each image.

    Raises:
        ValueError: an option is out of range.
        FileExistsError: the folder has other contents.
    """
    if train < 1 or val < 1:
        raise ValueError(f"--train {train} --val {val}: both must be at least 1")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"--size {size}: must be from {SIZES[0]} to {SIZES[1]}")
    if not 6 <= classes <= len(THINGS):
        raise ValueError(f"--classes {classes}: must be from 6 to {len(THINGS)}")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must not be negative")
    output = Path(output)
    options = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed, "classes": classes}
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        present = _stats_of(output)
        if present is not None and present.get("options") == options and not overwrite:
            return present
        if present is None or not overwrite:
            contents = "a demo data set with other options" if present else "files that are not a demo data set"
            raise FileExistsError(
                f"{output} contains {contents}; choose another folder" + (" or add --overwrite" if present else "")
            )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.partial-", dir=output.parent))
    try:
        result: dict[str, Any] = {"options": options}
        for split, count in zip(SPLITS, (train, val)):
            result[split] = make_split(partial, split, count, size, seed, classes, drawn)
        things = [{"id": i, "name": n, "isthing": 1} for i, n in enumerate(list(THINGS)[:classes])]
        stuff = [{"id": classes + i, "name": n, "isthing": 0} for i, n in enumerate(STUFF)]
        (partial / "annotations" / "semantic_categories.json").write_text(json.dumps(things + stuff, indent=1) + "\n")
        (partial / "stats.json").write_text(json.dumps(result, indent=1) + "\n")
        partial.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _stats_of(folder: Path) -> dict[str, Any] | None:
    """Return the stats.json of a complete demo data set, or None if the folder does not contain one."""
    try:
        content = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "options" in content else None


class _Progress:
    """Print the progress after each tenth of the images.

    Args:
        total: number of images.
    """

    def __init__(self, total: int) -> None:
        self._total, self._drawn = total, 0

    def __call__(self) -> None:
        """Count an image."""
        self._drawn += 1
        if self._drawn * 10 // self._total > (self._drawn - 1) * 10 // self._total:
            print(f"generated {self._drawn} of {self._total} images", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Generate the data set according to the command line.

    Raises:
        UserError: an option is invalid, or the data set cannot be written.
    """
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=non_empty, required=True, help="folder to create")
    parser.add_argument("--train", type=positive_int, default=1000, metavar="N", help="number of training images")
    parser.add_argument("--val", type=positive_int, default=60, metavar="N", help="number of validation images")
    parser.add_argument(
        "--size",
        type=int_in_range(*SIZES),
        default=224,
        metavar="N",
        help=f"square root of the area of an image in pixels, {SIZES[0]} to {SIZES[1]}",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, default=7, metavar="N", help="random seed of train; val uses the next one"
    )
    parser.add_argument(
        "--classes",
        type=int_in_range(6, len(THINGS)),
        default=6,
        metavar="N",
        help=f"number of thing classes, 6 to {len(THINGS)}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a demo data set with other options")
    args = parser.parse_args(arguments)
    try:
        result = make_demo(**vars(args), drawn=_Progress(args.train + args.val))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    print(summary(result))
    print(f"the demo data set is in {args.output}")


if __name__ == "__main__":
    main_guard(main)
