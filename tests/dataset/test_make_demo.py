"""The demo data set is reproducible, correctly annotated, and neither trivial nor too difficult."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dataset.demo import geometry, make_demo, shapes
from dataset.demo.textures import STUFF
from deploy.common.errors import UserError

TRAIN, VAL, CLASSES = 60, 40, 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo.make_demo(folder, train=TRAIN, val=VAL, seed=7)
    return folder


def load(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def read(path: Path) -> np.ndarray:
    """Read an image as it is stored."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode a segmentation with pycocotools."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def test_same_seed_gives_the_same_bytes_in_another_process(demo: Path, tmp_path: Path) -> None:
    script = Path(make_demo.__file__)
    options = ["--train", "6", "--val", "4", "--seed", "7"]
    command = [sys.executable, str(script), "--output", str(tmp_path / "a"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    make_demo.make_demo(tmp_path / "b", train=6, val=4, seed=7)
    for name in ("instances_train.json", "instances_val.json", "semantic_categories.json"):
        first, second = (tmp_path / run / "annotations" / name for run in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    # A larger data set starts with the images of a smaller one; on the same machine, the files are identical as well.
    small, large = load(tmp_path / "a", "val"), load(demo, "val")
    assert small["annotations"] == large["annotations"][: len(small["annotations"])]
    assert (tmp_path / "a/train/000003.jpg").read_bytes() == (demo / "train/000003.jpg").read_bytes()


def test_annotations_are_pinned() -> None:
    """Recorded numbers that may only change together with VERSION, not with the machine or versions of libraries."""
    scene, _ = make_demo.scene_of(7, "train", 0, 224, CLASSES)
    got = [(t.label, *geometry.tight_box(t.visible), int(t.visible.sum())) for t in scene.things]
    assert (scene.height, scene.width) == (281, 187)
    assert got == [
        (4, 6, 102, 87, 94, 2420),
        (5, 0, 52, 82, 95, 3362),
        (2, 48, 157, 58, 76, 1989),
        (0, 77, 134, 71, 84, 2521),
    ]
    labels = [2521, 0, 1989, 0, 2420, 3362, 24830, 0, 17425, 0, 0, 0]
    assert np.bincount(scene.semantic.reshape(-1), minlength=12).tolist() == labels


def test_seeds_and_splits_differ(demo: Path, tmp_path: Path) -> None:
    boxes = {split: [a["bbox"] for a in load(demo, split)["annotations"]] for split in ("train", "val")}
    common = {tuple(b) for b in boxes["train"]} & {tuple(b) for b in boxes["val"]}
    assert len(common) < 0.02 * len(boxes["val"])
    # The training images of the next seed differ from the validation images of this one, although both use seed 8.
    make_demo.make_demo(tmp_path / "next", train=4, val=1, seed=8)
    assert [a["bbox"] for a in load(tmp_path / "next", "train")["annotations"]][:8] != boxes["val"][:8]


def test_masks_boxes_and_semantic_maps_agree(demo: Path) -> None:
    kinds = {"polygon": 0, "runs": 0, "compressed": 0}
    for split, count in (("train", TRAIN), ("val", VAL)):
        document = load(demo, split)
        assert [c["id"] for c in document["categories"]] == list(range(1, CLASSES + 1))
        assert len(document["images"]) == count
        assert len({a["id"] for a in document["annotations"]}) == len(document["annotations"])
        by_image: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in document["images"]}
        for a in document["annotations"]:
            by_image[a["image_id"]].append(a)
        for image in document["images"]:
            height, width = image["height"], image["width"]
            stem = Path(image["file_name"]).stem
            picture = read(demo / split / image["file_name"])
            semantic = read(demo / "stuffthingmaps" / split / f"{stem}.png")
            assert picture.shape == (height, width, 3) and semantic.shape == (height, width)
            owners = np.zeros((height, width), int)
            painted = np.full((height, width), 255)
            for a in by_image[image["id"]]:
                assert 1 <= a["category_id"] <= CLASSES and a["iscrowd"] == 0 and 0 <= a["occlusion"] <= 0.55
                mask = decode(a["segmentation"], height, width)
                rows, columns = np.nonzero(mask)
                x, y = columns.min(), rows.min()
                assert a["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
                assert a["area"] == mask.sum() >= 80
                owners += mask
                painted[mask] = a["category_id"] - 1
                if isinstance(a["segmentation"], list):
                    kinds["polygon"] += 1
                else:
                    kinds["runs" if isinstance(a["segmentation"]["counts"], list) else "compressed"] += 1
            assert owners.max() <= 1, "visible masks do not overlap"
            things = semantic < CLASSES
            assert np.array_equal(things, owners == 1)
            assert np.array_equal(semantic[things], painted[things])
            assert semantic.max() < CLASSES + len(STUFF)
    total = sum(kinds.values())
    assert kinds["polygon"] > 0.5 * total and kinds["runs"] > 0.03 * total and kinds["compressed"] > 0.03 * total


def test_statistics_are_in_the_intended_ranges(demo: Path) -> None:
    stats = json.loads((demo / "stats.json").read_text())
    for split, images in (("train", TRAIN), ("val", VAL)):
        s, annotations = stats[split], load(demo, split)["annotations"]
        area = np.array([a["area"] for a in annotations])
        hidden = np.array([a["occlusion"] for a in annotations])
        assert s["images"] == images and s["objects"] == len(annotations)
        assert s["objects_per_image"] == pytest.approx(len(annotations) / images, abs=1e-3)
        assert len(annotations) >= 4.5 * images
        assert s["occluded_20"] == pytest.approx((hidden >= 0.2).mean(), abs=1e-4) and (hidden >= 0.2).mean() >= 0.27
        assert s["small"] == pytest.approx((area < 1024).mean(), abs=1e-4) and 0.08 <= s["small"] <= 0.25
        assert s["large"] == pytest.approx((area > 9216).mean(), abs=1e-4) and 0.03 <= s["large"] <= 0.15
        assert min(s["things"].values()) >= 0.5 * len(annotations) / CLASSES
        assert min(s["stuff_pixel_share"].values()) > 0.02
        assert 0.3 * images <= s["landscape"] <= 0.7 * images
        assert 160 <= s["sides"][0] and s["sides"][1] <= 290


def test_occlusion_is_the_hidden_share() -> None:
    scene, _ = make_demo.scene_of(7, "train", 1, 224, CLASSES)
    seen = np.zeros((scene.height, scene.width), bool)
    for thing in reversed(scene.things):
        assert np.array_equal(thing.visible, thing.full & ~seen)
        assert thing.hidden == pytest.approx((thing.full & seen).sum() / thing.full.sum())
        seen |= thing.full


def test_classes_cannot_be_distinguished_by_colour(demo: Path) -> None:
    """Classifying objects by their mean colour is hardly better than guessing (1 in 6)."""
    means: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    labels: dict[str, list[int]] = {"train": [], "val": []}
    for split in means:
        document = load(demo, split)
        files = {i["id"]: read(demo / split / i["file_name"]) for i in document["images"]}
        for a in document["annotations"]:
            picture = files[a["image_id"]]
            means[split].append(picture[decode(a["segmentation"], *picture.shape[:2])].mean(0))
            labels[split].append(a["category_id"])
    colours, classes = np.stack(means["train"]), np.array(labels["train"])
    centres = np.stack([colours[classes == c].mean(0) for c in range(1, CLASSES + 1)])
    distance = ((np.stack(means["val"])[:, None] - centres[None]) ** 2).sum(-1)
    assert (distance.argmin(1) + 1 == np.array(labels["val"])).mean() < 0.33


def test_fill_counts_pixel_centres() -> None:
    square = geometry.polygon((1, 1), (4, 1), (4, 3), (1, 3))
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(geometry.fill(square, 5, 6), expected)
    triangle = geometry.polygon((0, 0), (4, 0), (0, 4))  # centres with x + y < 4
    assert geometry.fill(triangle, 4, 4).tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
    ]
    half = geometry.polygon((0.5, 0.25), (9, 0.25), (9, 0.75), (0.5, 0.75))  # extends beyond the right border
    assert geometry.fill(half, 2, 3).tolist() == [[True, True, True], [False, False, False]]


@pytest.mark.parametrize("seed", range(6))
def test_encodings_of_random_masks_decode_to_themselves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 17)) < (0.25, 0.5, 0.75)[seed % 3]  # speckles, diagonal contacts, holes, border pixels
    runs = geometry.run_lengths(mask)
    assert np.array_equal(decode({"size": [13, 17], "counts": runs}, 13, 17), mask)
    assert np.array_equal(decode({"size": [13, 17], "counts": geometry.compress(runs)}, 13, 17), mask)
    reference = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert geometry.compress(runs) == reference
    rings, holes = geometry.outlines(mask)
    components, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(rings) == components - 1
    outside, _ = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=8)
    assert holes == (outside > 2)


def test_outlines_of_known_masks() -> None:
    one = np.zeros((4, 5), bool)
    one[1, 2] = True
    assert geometry.outlines(one) == ([[3, 1, 3, 2, 2, 2, 2, 1]], False)
    one[2, 3] = True  # only touches at a corner, so it gets its own polygon
    rings, holes = geometry.outlines(one)
    assert len(rings) == 2 and not holes
    assert np.array_equal(decode(rings, 4, 5), one)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert geometry.outlines(ring)[1]
    ell = np.array([[1, 0], [1, 1]], bool)
    rings, _ = geometry.outlines(ell)
    assert len(rings[0]) == 12 and np.array_equal(decode(rings, 2, 2), ell)


@pytest.mark.parametrize("name", list(shapes.THINGS))
def test_shapes_have_the_requested_size(name: str) -> None:
    for side in (24.0, 60.0):
        shape, mask = shapes.instance(name, side, np.random.default_rng(3))
        assert mask.sum() == pytest.approx(side**2, rel=0.06)
        assert not mask[0].any() and not mask[-1].any() and not mask[:, 0].any() and not mask[:, -1].any()
        assert len(shape.parts) >= 3


def test_existing_folders(tmp_path: Path) -> None:
    target = tmp_path / "set"
    arguments = ["--output", str(target), "--train", "2", "--val", "1", "--size", "96"]
    make_demo.main(arguments)
    stamp = (target / "stats.json").stat().st_mtime_ns
    make_demo.main(arguments)  # already complete, not changed
    assert (target / "stats.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="--overwrite"):
        make_demo.main([*arguments, "--seed", "9"])
    make_demo.main([*arguments, "--seed", "9", "--overwrite"])
    assert json.loads((target / "stats.json").read_text())["options"]["seed"] == 9

    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.txt").write_text("mine")
    with pytest.raises(UserError, match=str(other)):
        make_demo.main(["--output", str(other), "--train", "1", "--val", "1", "--overwrite"])
    assert (other / "a.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "set"]


@pytest.mark.parametrize("option", [("--train", "0"), ("--size", "20"), ("--classes", "5"), ("--seed", "-1")])
def test_bad_options_are_refused(option: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"argument {option[0]}: expected a whole number .* got '{option[1]}'"):
        make_demo.main(["--output", str(tmp_path / "x"), *option])
    assert not (tmp_path / "x").exists()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(make_demo, "_write_image", broken)
    with pytest.raises(OSError, match="disk full"):
        make_demo.make_demo(tmp_path / "set", train=1, val=1)
    assert list(tmp_path.iterdir()) == []
