"""tools/make_semantic_maps.py: maps from instance annotations, and maps that include stuff classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppdet.core.workspace import build_op
from ppdet.data.semantic_maps import SemanticMapMaker, write_maps
from ppdet.data.source import COCODataSet
from ppdet.utils.errors import UserError


def outline(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {"bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Annotation files of things (ids 1, 90) and stuff (ids 92, 95, 183) for two images of 6 x 8 and 4 x 4 pixels."""
    images = [
        {"id": 4, "file_name": "sub/a.jpg", "height": 6, "width": 8},
        {"id": 5, "file_name": "b.jpg", "height": 4, "width": 4},
    ]
    things = [{"id": 1, "image_id": 4, "category_id": 90, **outline(2, 1, 3, 3)}]
    stuff = [
        {"id": 1, "image_id": 4, "category_id": 92, **outline(0, 0, 8, 3)},
        {"id": 2, "image_id": 4, "category_id": 183, **outline(0, 3, 8, 3)},
        {"id": 3, "image_id": 5, "category_id": 95, "bbox": [0, 0, 4, 4], "area": 8,
         "segmentation": {"size": [4, 4], "counts": [8, 8]}},
    ]  # fmt: skip
    named = {1: "person", 90: "brush"}, {92: "banner", 95: "bridge", 183: "other"}
    for name, entries, categories in zip(("things", "stuff"), (things, stuff), named):
        listed = [{"id": category_id, "name": text} for category_id, text in categories.items()]
        content = {"images": images, "annotations": entries, "categories": listed}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return str(tmp_path / "things.json"), str(tmp_path / "stuff.json")


def test_things(files: tuple[str, str], tmp_path: Path) -> None:
    maker = SemanticMapMaker(files[0], background="class")
    assert maker.num_classes == 3
    assert write_maps(maker, tmp_path / "out", progress=False) == 2
    expected = np.full((6, 8), 2)
    expected[1:4, 2:5] = 1
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / "sub" / "a.png")), expected)
    assert (np.array(Image.open(tmp_path / "out" / "b.png")) == 2).all()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a.png", "b.png", "sub"]


def test_stuff_below_things(files: tuple[str, str]) -> None:
    maker = SemanticMapMaker(*files, labels="category_id")
    assert maker.num_classes == 183
    first, second = (maker.make(image) for image in maker.images)
    expected = np.full((6, 8), 255)
    expected[:3] = 91
    expected[1:4, 2:5] = 89
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, np.repeat([[255, 255, 94, 94]], 4, 0))


def test_stuff_alone(files: tuple[str, str]) -> None:
    maker = SemanticMapMaker(None, files[1], labels="category_id")
    assert sorted(set(maker.make(maker.images[0]).ravel())) == [91, 255]


def test_invalid_requests(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--instances, --stuff"):
        SemanticMapMaker(None)
    with pytest.raises(UserError, match="category_id"):
        SemanticMapMaker(*files)
    maker = SemanticMapMaker(files[0])
    with pytest.raises(UserError, match="does not end in .png"):
        write_maps(maker, tmp_path / "out", ".jpg")
    maker.images.append({**maker.images[0], "file_name": "sub/a.png"})
    with pytest.raises(UserError, match=r"sub/a\.jpg and sub/a\.png would share"):
        write_maps(maker, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_equal_the_maps_of_the_data_set(tiny_coco: Path, tmp_path: Path) -> None:
    annotations = "annotations/instances_val2017.json"
    maker = SemanticMapMaker(str(tiny_coco / annotations))
    write_maps(maker, tmp_path / "maps", progress=False)
    common = {
        "dataset_dir": str(tiny_coco),
        "image_dir": "val2017",
        "anno_path": annotations,
        "data_fields": ["image", "gt_bbox", "gt_class"],
    }
    made = COCODataSet(**common, semantic={"kind": "instances"}, semantic_num_classes=maker.num_classes)
    read = COCODataSet(**common, semantic={"kind": "png", "dir": str(tmp_path / "maps")}, semantic_num_classes=80)
    decode = build_op("Decode")
    for index in range(0, len(made), 4):
        first, second = (decode(data[index], np.random.default_rng(0)).semantic for data in (made, read))
        np.testing.assert_array_equal(first, second)


def test_command_line(files: tuple[str, str], tmp_path: Path, repo_root: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(repo_root / "tools" / "make_semantic_maps.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = run("--instances", files[0], "--stuff", files[1], "--output", "maps")
    assert done.returncode == 0, done.stderr
    assert "semantic_num_classes: 183" in done.stdout and "2/2" in done.stderr
    assert np.array(Image.open(tmp_path / "maps" / "sub" / "a.png"))[2, 3] == 89
    for arguments, words in ((["--output", "x"], "nothing to make"), (["--instances", "none.json", "--output", "x"], "none.json does not exist"), (["--odd"], "--output")):  # fmt: skip  # noqa: E501
        failed = run(*arguments)
        lines = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
        assert failed.returncode == 1 and len(lines) == 1 and words in lines[0] and "Traceback" not in failed.stderr
    assert not (tmp_path / "x").exists()
