"""Command line for images: output files, error messages and exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from deploy.common import progress
from deploy.common.errors import UserError
from deploy.common.image_files import find_images
from deploy.common.image_io import read_image
from deploy.common.output import Output
from deploy.python import Predictor, infer
from deploy.python.benchmark import PARTS, measure
from deploy.python.images import predict_images, read_batches
from deploy.python.options import parse
from tests.deploy.python.conftest import CLASSES, EMPTY, Exported

Run = Callable[..., int]


@pytest.fixture
def run(exported: Exported, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the tool in this process with the small model and the output folder ``tmp_path/out``; return its status."""
    monkeypatch.setattr(infer, "Predictor", lambda *_: predictor)

    def call(*arguments: str) -> int:
        standard = ["--model_dir", str(exported.folder), "--output_dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["infer.py", *standard, *arguments])
        return infer.main()

    return call


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """Four images with an empty and a broken file between them, and a text file."""
    place = tmp_path / "images"
    place.mkdir()
    for number, path in enumerate(exported.pictures):
        (place / f"{'abcd'[number]}.png").write_bytes(Path(path).read_bytes())
    (place / "b_empty.jpg").write_bytes(b"")
    (place / "c_broken.png").write_bytes(Path(exported.pictures[0]).read_bytes()[:300])
    (place / "notes.txt").write_text("no image")
    return place


def test_bad_images_do_not_stop_the_others(
    run: Run,
    folder: Path,
    tmp_path: Path,
    exported: Exported,
    predictor: Predictor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--image_dir", str(folder), "--batch_size", "3", "--save_results", "--save_masks") == 1
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.png", "b.png", "bbox.json", "c.png", "d.png", "mask.json", "masks")
    ]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and errors[2].startswith("error: 2 of 6 images were skipped (b_empty.jpg, c_broken.png)")
    assert "b_empty.jpg is an empty file" in errors[0] and "c_broken.png is truncated" in errors[1]
    boxes, masks = (json.loads((out / f"{kind}.json").read_text()) for kind in ("bbox", "mask"))
    images = [read_image(path) for path in exported.pictures]
    expected = []
    for found, (image_id, name) in zip(
        predictor.predict(images[:3]) + predictor.predict(images[3:]),
        [(0, "a.png"), (1, "b.png"), (3, "c.png"), (5, "d.png")],  # broken files are counted as well
    ):
        expected += [{**row, "file_name": name} for row in found.to_coco(image_id)[0]]
    assert boxes == expected and len(boxes) > 10
    assert {row["category_id"] for row in boxes} <= set(CLASSES)
    assert [(row["image_id"], row["score"]) for row in masks] == [(row["image_id"], row["score"]) for row in boxes]
    pictures = [cv2.imread(str(out / "masks" / f"a_{number:03d}.png"), cv2.IMREAD_UNCHANGED) for number in (0, 1)]
    assert len(list((out / "masks").iterdir())) == len(masks)
    for picture, row in zip(pictures, masks):
        np.testing.assert_array_equal(picture, coco_mask.decode(row["segmentation"]) * 255)


def test_polygons_of_each_image(run: Run, exported: Exported, predictor: Predictor, tmp_path: Path) -> None:
    assert run("--image_file", exported.pictures[0], "--save_polygons", "--save_images", "False") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["polygons"]
    told = json.loads((tmp_path / "out" / "polygons" / "0.json").read_text())
    found = predictor(exported.pictures[0]).above(0.5)
    assert (told["file_name"], told["image_id"], told["height"], told["width"]) == ("0.png", 0, 70, 90)
    assert len(told["objects"]) == len(found) > 0
    for index, one in enumerate(told["objects"]):
        assert one["polygons"] == found.polygons(index)
        assert one["category"] == CLASSES[one["category_id"]] == found.class_names[found.labels[index]]
        x1, y1, x2, y2 = found.boxes[index].tolist()
        assert one["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1]) and one["score"] == found.scores[index]


def test_threshold(run: Run, exported: Exported, predictor: Predictor, tmp_path: Path) -> None:
    scores = predictor(exported.pictures[0]).scores
    middle = f"{np.sort(scores)[len(scores) // 2]:.6f}"
    expected = int((scores >= float(middle)).sum())
    assert 0 < expected < len(scores)
    assert run("--image_file", exported.pictures[0], "--threshold", middle, "--save_results") == 0
    assert len(json.loads((tmp_path / "out" / "bbox.json").read_text())) == expected


def test_a_list_of_images(run: Run, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join([exported.pictures[1], "", exported.pictures[0]]))
    assert run("--image_list", str(tmp_path / "list.txt"), "--save_results", "true", "--save_images", "0") == 0
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    assert {row["image_id"]: row["file_name"] for row in rows} == {0: "1.png", 1: "0.png"}


def test_images_of_one_name_do_not_overwrite_each_other(
    predictor: Predictor, exported: Exported, tmp_path: Path
) -> None:
    paths = [str(tmp_path / name) for name in ("x/a.png", "y/a.png", "a.jpg")]
    for path in paths:
        Path(path).parent.mkdir(exist_ok=True)
        cv2.imwrite(path, cv2.imread(exported.pictures[0]))
    output = Output(folder=tmp_path / "out", has_masks=True, save_polygons=True)
    assert predict_images(predictor, find_images(paths, None, None), output, 0.5, 2, True) == 0
    written = sorted(path.relative_to(output.folder).as_posix() for path in output.folder.rglob("*.*"))
    assert written == ["a.jpg", "polygons/a.json", "polygons/x/a.json", "polygons/y/a.json", "x/a.png", "y/a.png"]


def test_batches_are_filled_up(folder: Path, exported: Exported) -> None:
    paths = sorted(str(path) for path in folder.iterdir())
    batches = list(read_batches(paths, 2))
    assert [batch.places for batch in batches] == [[0, 1], [3, 5], []]
    assert [len(batch.complaints) for batch in batches] == [0, 2, 1]


@pytest.mark.parametrize("tqdm", [True, False])
def test_nothing_but_bad_images(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tqdm: bool
) -> None:
    if not tqdm:
        monkeypatch.setattr(progress, "tqdm", None)
    (tmp_path / "a.jpg").write_bytes(b"")
    assert run("--image_dir", str(tmp_path), "--save_results") == 1
    assert json.loads((tmp_path / "out" / "mask.json").read_text()) == []
    assert "error: 1 of 1 images was skipped (a.jpg)" in capsys.readouterr().err


def test_progress_without_tqdm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "tqdm", None)
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress.Progress(4000, "frames") as bar:
        bar._start -= 10.0
        bar.advance(1000)
        bar.advance(3000)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("1000 of 4000 frames, ") and first.endswith(" frames/s, 0:00:30 left")
    assert last.startswith("4000 of 4000 frames, ") and "left" not in last


def test_benchmark(run: Run, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(Path(exported.pictures[0]).read_bytes())
    assert run("--image_dir", str(tmp_path), "--run_benchmark") == 1
    printed = capsys.readouterr()
    for word in (*PARTS, "ms per image", "images/s", "peak memory"):
        assert word in printed.out
    assert "a.jpg is an empty file" in printed.err and printed.err.count("skipped:") == 1
    assert not (tmp_path / "out").exists()


def test_the_benchmark_adds_up(predictor: Predictor, exported: Exported) -> None:
    timing = measure(predictor, exported.pictures, 3, 0.5)
    assert timing.counts == [3, 1] * 5
    assert all(len(timing.seconds[part]) == 10 and min(timing.seconds[part]) > 0 for part in PARTS)
    total = sum(sum(timing.seconds[part]) for part in PARTS[1:])
    assert timing.rate == pytest.approx(20 / total)
    assert timing.milliseconds("inference")[0] == pytest.approx(1000 * timing.seconds["inference"][0] / 3)


def test_a_benchmark_needs_an_image(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image can be read: .*a\.jpg"):
        measure(predictor, [str(tmp_path / "a.jpg")], 1, 0.5)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "there is no input"),
        (["--image_file", "a", "--video_file", "b"], "--image_file and --video_file cannot be combined"),
        (["--camera_id", "0", "--image_dir", "x"], "cannot be combined"),
        (["--video_file", "b", "--run_benchmark"], "--run_benchmark requires images"),
        (
            ["--image_file", "a", "--batch_size", "0"],
            "argument --batch_size: expected a whole number of 1 or more, got '0'",
        ),
        (
            ["--image_file", "a", "--cpu_threads", "-1"],
            "argument --cpu_threads: expected a whole number from 1 to 1024, got '-1'",
        ),
        (["--image_file", "a", "--threshold", "50"], "argument --threshold: expected a number from 0 to 1, got '50'"),
        (["--image_file", "a", "--threshold", "nan"], "argument --threshold: expected a number from 0 to 1, got 'nan'"),
        (["--image_file", "a", "--device", "NPU"], "device"),
        (["--image_file", "a", "--save_images", "perhaps"], "expected true or false"),
        (["--image_file", "a", "--imagedir", "b"], "imagedir"),
    ],
)
def test_wrong_command_lines(arguments: list[str], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        parse(["--model_dir", "m", *arguments])


def test_flags_given_as_false_are_false() -> None:
    options = parse(["--model_dir", "m", "--image_file", "a", "--enable_mkldnn", "False", "--save_results=False"])
    assert (options.enable_mkldnn, options.save_results, options.save_images) == (False, False, True)
    assert parse(["--model_dir", "m", "--image_file", "a"]).enable_mkldnn


def test_options_without_meaning_are_explained(
    run: Run, exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--enable_mkldnn_bfloat16", "True", "--trt_calib_mode=False", "--use_coco_category"]
    assert run("--image_file", exported.pictures[EMPTY], *given) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "has no effect" in line]
    assert [line.split()[0] for line in lines] == ["--enable_mkldnn_bfloat16", "--use_coco_category"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--image_file", "nowhere.jpg"], "nowhere.jpg does not exist"),
        (["--image_dir", "."], "contains no images"),
        (["--image_dir", "nowhere"], "nowhere does not exist"),
        (["--image_list", "list.txt"], "gone.jpg in list.txt does not exist"),
        (["--video_file", "nowhere.mp4"], "the video nowhere.mp4 does not exist"),
        (["--video_file", "list.txt"], "the video list.txt is broken"),
    ],
)
def test_wrong_sources(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], culprit: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    with pytest.raises(UserError, match=culprit):
        run(*arguments)


def test_masks_of_a_model_without_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the model has no masks"):
        Output(folder=tmp_path, has_masks=False, save_polygons=True)
    output = Output(folder=tmp_path, has_masks=False, save_results=True)
    assert len(output.finish()) == 1 and [path.name for path in tmp_path.iterdir()] == ["bbox.json"]


def test_as_a_user_runs_it(repo_root: Path, exported: Exported, tmp_path: Path) -> None:
    tool = [sys.executable, str(repo_root / "deploy" / "python" / "infer.py")]
    image = ["--image_file", exported.pictures[0]]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*tool, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = call("--model_dir", str(exported.folder), *image, "--enable_mkldnn", "False", "--save_results")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "0.png").is_file() and "0.png: " in done.stdout
    for arguments, culprit in [
        (["--model_dir", "nowhere", *image], "the folder nowhere does not exist"),
        (["--model_dir", str(exported.folder), *image, "--run_mode", "trt_fp16"], "trt_fp16 needs TensorRT"),
    ]:
        done = call(*arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ") and culprit in done.stderr
