"""Prediction on whatever people point at: broken images, folders in folders, patterns, lists. Both tools alike."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deploy.common.command_line import main_guard
from deploy.common.detections import Detections
from deploy.common.errors import UserError
from deploy.common.extra_inputs import ExtraInputs
from deploy.python.exported import ExportedModel
from tests.deploy.box_detections import box_detections
from tests.hostile.conftest import Bench, Outcome

Infer = Callable[..., Outcome]

NAMES = ["disc", "square", "triangle", "star", "cross", "ring"]


class FakePredictor:
    """Finds one square on each image, without a model."""

    has_boxes = has_masks = True
    extra_inputs = ExtraInputs()
    draw_threshold = 0.5

    def predict(self, images: list[np.ndarray]) -> list[Detections]:
        """One detection an image."""
        rows = np.array([[1, 0.9, 2, 2, 20, 20]], np.float32)
        masks = np.ones((1, 28, 28), np.float32)
        return [box_detections(rows, masks, image.shape[:2], NAMES, [1, 2, 3, 4, 5, 6]) for image in images]  # type: ignore[arg-type]


@pytest.fixture(params=["tools", "deploy"])
def infer(bench: Bench, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Infer:
    """Run ``tools/infer.py`` or ``deploy/python/infer.py`` on a source (``img``, ``dir``, ``list``)."""
    if request.param == "tools":
        from ppdet.engine.session import Session

        monkeypatch.setattr(Session, "load_weights", lambda self, *_: None)  # random ones will do

        def tool(*arguments: str, **sources: Any) -> Outcome:
            return bench.run("infer", *_options(sources, "infer_{}"), *arguments, "--output_dir", _output(arguments))

        return tool
    module = importlib.import_module("deploy.python.infer")
    monkeypatch.setattr(module, "Predictor", lambda *_: FakePredictor())

    def deployed(*arguments: str, **sources: Any) -> Outcome:
        options = _options({{"img": "file"}.get(key, key): value for key, value in sources.items()}, "image_{}")
        monkeypatch.chdir(bench.folder)
        line = ["infer.py", "--model_dir", "m", *options, *arguments, "--output_dir", _output(arguments)]
        monkeypatch.setattr(sys, "argv", line)
        bench._read()
        with pytest.raises(SystemExit) as ended:
            main_guard(module.main)
        printed = bench._read()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    return deployed


def _options(sources: dict[str, Any], form: str) -> list[str]:
    options: list[str] = []
    for key, value in sources.items():
        options += [f"--{form.format(key)}", *map(str, value if isinstance(value, list) else [value])]
    return options


def _output(arguments: tuple[str, ...]) -> str:
    return arguments[arguments.index("--output_dir") + 1] if "--output_dir" in arguments else "out"


def picture(path: Path, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix if path.suffix.lower() in (".png", ".jpg", ".bmp") else ".png", _noise(side))
    assert done
    path.write_bytes(data.tobytes())
    return path


def _noise(side: int) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 255, (side, side + 8, 3), dtype=np.uint8)


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def refused(outcome: Outcome, *words: str) -> str:
    assert outcome.status == 1 and "Traceback" not in outcome.err, outcome.err[-2000:]
    assert outcome.error and len(outcome.error) < 700
    for word in words:
        assert word in outcome.error, f"'{word}' is not in: {outcome.error}"
    return outcome.error


def test_broken_images_are_skipped_and_named(bench: Bench, infer: Infer) -> None:
    photos = bench.folder / "photos"
    good = [picture(photos / name) for name in ("b.jpg", "d.png", "f.jpg")]
    (photos / "a.jpg").write_bytes(b"")
    (photos / "c.jpg").write_bytes(good[0].read_bytes()[:200])
    (photos / "e.png").write_text("no image")
    os.symlink("nowhere.jpg", photos / "g.jpg")
    outcome = infer("--save_results", dir=photos)
    assert outcome.status == 1
    skipped = [line for line in outcome.err.splitlines() if line.startswith("skipped: ")]
    assert [name for name in "abcdefg" for line in skipped if f"/{name}." in line] == ["a", "c", "e", "g"]
    assert "4 of 7 images were skipped (a.jpg, c.jpg, e.png, g.jpg)" in outcome.error
    assert written(bench.folder / "out") == ["b.jpg", "bbox.json", "d.png", "f.jpg", "mask.json"]
    rows = json.loads((bench.folder / "out" / "bbox.json").read_text())
    assert {(row["image_id"], row["file_name"]) for row in rows} <= {(1, "b.jpg"), (3, "d.png"), (5, "f.jpg")}
    assert all(set(row) == {"image_id", "category_id", "bbox", "score", "file_name"} for row in rows)
    assert "7 of 7 images, " in outcome.out and " images/s" in outcome.out
    assert f"{good[0]}: " in outcome.out and " object" in outcome.out


def test_only_broken_images(bench: Bench, infer: Infer) -> None:
    (bench.folder / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (bench.folder / "photos" / name).write_bytes(b"x")
    outcome = infer("--save_results", dir="photos")
    refused(outcome, "2 of 2 images were skipped (a.jpg, b.jpg)")
    assert "visualizations are in" not in outcome.out
    assert json.loads((bench.folder / "out" / "bbox.json").read_text()) == []


def test_folders_in_folders(bench: Bench, infer: Infer) -> None:
    photos = bench.folder / "photos"
    for name in ("a.jpg", "one/a.jpg", "one/two/a.jpg", "x.jpg/a.jpg", "masks/a_000.png"):
        picture(photos / name)
    for name in (".hidden.jpg", "._a.jpg", ".cache/a.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"no image")
    (photos / "notes.txt").write_text("no image")
    os.symlink("..", photos / "one" / "up")
    os.symlink("../one", photos / "one" / "itself")
    os.symlink("loop", photos / "loop")
    os.symlink("loop.jpg", photos / "loop.jpg")
    os.mkfifo(photos / "pipe.jpg")
    outcome = infer("--save_results", dir="photos")
    out = bench.folder / "out"
    pictures = ["a.jpg", "masks_images/a_000.png", "one/a.jpg", "one/two/a.jpg", "x.jpg/a.jpg"]
    assert [name for name in written(out) if not name.endswith(".json")] == pictures
    names = {row["file_name"] for row in json.loads((out / "bbox.json").read_text())}
    assert names <= {"a.jpg", "masks/a_000.png", "one/a.jpg", "one/two/a.jpg", "x.jpg/a.jpg"}
    refused(outcome, "1 of 6 images was skipped (loop.jpg)")  # a link to itself


def test_own_pictures_are_not_predicted_again(bench: Bench, infer: Infer) -> None:
    picture(bench.folder / "photos" / "a.jpg")
    for _ in range(2):
        outcome = infer("--output_dir", "photos/out", dir="photos")
        assert outcome.status == 0 and written(bench.folder / "photos") == ["a.jpg", "out/a.jpg"]
    assert "photos/out is skipped because it is the output folder" in outcome.out


def test_originals_are_not_overwritten(bench: Bench, infer: Infer) -> None:
    path = picture(bench.folder / "photos" / "a.jpg")
    before = path.read_bytes()
    for source in ({"dir": "photos"}, {"img": "photos/a.jpg"}):
        refused(infer("--output_dir", "photos", **source), "photos/a.jpg", "choose an --output_dir other than photos")
    assert path.read_bytes() == before and written(bench.folder / "photos") == ["a.jpg"]


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"dir": "nowhere"}, ["the folder nowhere does not exist"]),
        ({"img": "nowhere.jpg"}, ["the image nowhere.jpg does not exist"]),
        ({"img": "x" * 300}, ["File name too long"]),
        ({"list": "nowhere.txt"}, ["the list of images nowhere.txt does not exist"]),
        ({"dir": "a.jpg"}, ["a.jpg is a file, not a folder", "pass the file as an image"]),
        ({"list": "empty"}, ["empty is a folder; the list of images must be a text file"]),
        ({"list": "a.jpg"}, ["a.jpg is not a list of images"]),
        ({"dir": "empty"}, ["the folder empty contains no images (.jpg, "]),
        ({"dir": "films"}, ["contains no images", "it contains 2 .heic, 1 .mp4", "--video_file FILE.mp4"]),
        ({"dir": "empty/*.jpg"}, ["the pattern empty/*.jpg matches no images"]),
        ({"dir": "nowhere/*.jpg"}, ["nowhere does not exist"]),
        ({"img": "films/c.mp4"}, ["films/c.mp4 is a video;", "deploy/python/infer.py", "--video_file films/c.mp4"]),
        ({"img": "/dev/null"}, ["/dev/null is neither an image file nor a folder"]),
    ],
)
def test_sources_that_are_none(bench: Bench, infer: Infer, sources: dict[str, Any], words: list[str]) -> None:
    picture(bench.folder / "a.jpg")
    (bench.folder / "empty").mkdir()
    (bench.folder / "films").mkdir()
    for name in ("a.heic", "b.HEIC", "c.mp4"):
        (bench.folder / "films" / name).write_bytes(b"x")
    refused(infer(**sources), *words)
    assert not (bench.folder / "out").exists()


def test_a_pattern_and_a_list_of_windows(bench: Bench, infer: Infer) -> None:
    for name in ("a.jpg", "b.png", "one/c.jpg"):
        picture(bench.folder / "photos" / name)
    assert infer(dir="photos/**/*.jpg").status == 0
    assert written(bench.folder / "out") == ["a.jpg", "one/c.jpg"]
    (bench.folder / "photos" / "list.txt").write_bytes("\ufeffb.png\r\n\r\none/c.jpg\r\n".encode())
    assert infer("--output_dir", "listed", list="photos/list.txt").status == 0
    assert written(bench.folder / "listed") == ["b.png", "c.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["list.txt contains no images"]),
        (b"# nothing\n\n", ["list.txt contains no images"]),
        (b"a.jpg\nb.jpg\nc.jpg\n", ["b.jpg in list.txt does not exist (2 of 3 files are missing)"]),
        (b"a.jpg\0b.jpg\n", ["list.txt is not a list of images"]),
        (b"a.jpg\n.\n", ["line 2 of list.txt is the folder ."]),
        (b"\xff\xfea\0b", ["list.txt is not encoded in UTF-8"]),
        (b"a.jpg\n" + b"x" * 5000, ["File name too long"]),
    ],
)
def test_lists_that_are_wrong(bench: Bench, infer: Infer, content: bytes, words: list[str]) -> None:
    picture(bench.folder / "a.jpg")
    (bench.folder / "list.txt").write_bytes(content)
    refused(infer(list="list.txt"), *words)


def test_two_kinds_of_sources(bench: Bench, infer: Infer) -> None:
    picture(bench.folder / "a.jpg")
    error = refused(infer(img="a.jpg", dir="."))
    assert "specify only one of them" in error or "cannot be combined" in error


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_in_all_scripts_and_none(bench: Bench, infer: Infer) -> None:
    photos = bench.folder / "photos"
    names = [
        "图片.jpg",
        "😀.png",
        "صورة.jpg",
        "a b'c\"d.jpg",
        "-x.jpg",
        "tab\tend.jpg",
        "\udcff\udcfe.jpg",
        "n" * 251 + ".jpg",
    ]
    for name in names:
        data = picture(bench.folder / "any.jpg").read_bytes()
        photos.mkdir(exist_ok=True)
        (photos / name).write_bytes(data)
    outcome = infer("--save_results", dir="photos")
    assert outcome.status == 0, outcome.err[-2000:]
    out = bench.folder / "out"
    pictures = {name for name in written(out) if not name.endswith(".json")}
    assert pictures == {*names[:-1], "n" * 200 + ".jpg"}
    found = {row["file_name"] for row in json.loads((out / "bbox.json").read_text())}
    assert found <= set(names)
    assert "\t" not in outcome.out and "图片.jpg" in outcome.out


def test_an_output_that_cannot_be_written(bench: Bench, infer: Infer) -> None:
    picture(bench.folder / "a.jpg")
    (bench.folder / "file").write_text("mine")
    refused(infer("--output_dir", "file", img="a.jpg"), "cannot create the folder file: it is a file; choose another")
    refused(infer("--output_dir", "file/sub", img="a.jpg"), "cannot create the folder file/sub")
    (bench.folder / "out" / "a.jpg").mkdir(parents=True)
    refused(infer(img="a.jpg"), "out/a.jpg", "Is a directory")
    assert (bench.folder / "file").read_text() == "mine"


def test_ctrl_c_keeps_what_is_done(bench: Bench, infer: Infer, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.common import image_run

    for name in "abcd":
        picture(bench.folder / "photos" / f"{name}.jpg")
    summary = image_run.summary
    said: list[str] = []

    def interrupted(found: Detections) -> str:
        said.append("")
        if len(said) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return summary(found)

    monkeypatch.setattr(image_run, "summary", interrupted)
    outcome = infer("--save_results", dir="photos")
    assert outcome.status == 130 and outcome.err.endswith("interrupted\n")
    assert "interrupted after 2 of 4 images; their results are kept" in outcome.out
    assert [name for name in written(bench.folder / "out") if name.endswith(".json")] == ["bbox.json", "mask.json"]
    rows = json.loads((bench.folder / "out" / "bbox.json").read_text())
    assert {row["file_name"] for row in rows} <= {"a.jpg", "b.jpg", "c.jpg"}


def test_a_failure_keeps_what_is_done(bench: Bench, infer: Infer) -> None:
    for name in "ab":
        picture(bench.folder / "photos" / f"{name}.jpg")
    (bench.folder / "out" / "b.jpg").mkdir(parents=True)
    outcome = infer("--save_results", dir="photos")
    refused(outcome, "out/b.jpg")
    assert "stopped by an error after 1 of 2 images; their results are kept" in outcome.out
    assert isinstance(json.loads((bench.folder / "out" / "bbox.json").read_text()), list)


def test_an_export_is_a_folder(bench: Bench) -> None:
    file = bench.write("export/infer_cfg.yml", "a: 1\n")
    with pytest.raises(UserError, match=rf"infer_cfg\.yml is a file, not a folder: .* {file.parent}$"):
        ExportedModel.read(file, "3.3.1")
