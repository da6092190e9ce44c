"""Invalid model folders are refused with an error that names the cause, before they are passed to Paddle."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.common.errors import UserError
from deploy.python.exported import ExportedModel

CONFIG: dict[str, Any] = {
    "draw_threshold": 0.4,
    "mask": True,
    "Preprocess": [
        {"type": "NormalizeImage", "mean": [0, 0, 0], "std": [1, 1, 1], "is_scale": True},
        {"type": "Permute"},
    ],
    "label_list": ["cat", "dog"],
    "category_ids": [4, 9],
    "mask_threshold": 0.6,
}


def _folder(path: Path, graph: str = "model.json", **export: Any) -> Path:
    path.mkdir()
    files = {graph: b"graph", "model.pdiparams": b"weights"}
    for name, content in files.items():
        (path / name).write_bytes(content)
    about = {"format": 1, "outputs": "detections", "paddle": "3.3.1", **export}
    about.setdefault("files", {name: f"{zlib.crc32(content):08x}" for name, content in files.items()})
    _write(path, {**CONFIG, "export": about})
    return path


def _write(path: Path, config: Any) -> None:
    (path / "infer_cfg.yml").write_text(yaml.safe_dump(config))


def test_what_the_file_says(tmp_path: Path) -> None:
    model = ExportedModel.read(_folder(tmp_path / "m"), "3.3.1")
    assert model.graph == tmp_path / "m" / "model.json" and model.parameters.name == "model.pdiparams"
    assert (model.class_names, model.category_ids) == (["cat", "dog"], [4, 9])
    assert (model.mask_threshold, model.draw_threshold, model.has_masks) == (0.6, 0.4, True)
    assert not model.extension and model.preprocessing.fixed == (None, None)
    fixed = ExportedModel.read(_folder(tmp_path / "f", image_shape=[3, 64, None]), "3.3.1")
    assert fixed.preprocessing.fixed == (64, None)
    assert ExportedModel.read(_folder(tmp_path / "e", extension=True), "3.3.1").extension


def test_the_copy_of_the_extension_is_checked(tmp_path: Path) -> None:
    files = {"model.json": b"graph", "model.pdiparams": b"weights", "htc_ext.so": b"code"}
    sums = {name: f"{zlib.crc32(content):08x}" for name, content in files.items()}
    folder = _folder(tmp_path / "m", extension=True, extension_build={"paddle": "3.3.1"}, files=sums)
    with pytest.raises(UserError, match=r"htc_ext\.so is missing: copy the whole export folder"):
        ExportedModel.read(folder, "3.3.1")
    (folder / "htc_ext.so").write_bytes(b"other")
    with pytest.raises(UserError, match=r"htc_ext\.so is damaged or does not belong to the same export"):
        ExportedModel.read(folder, "3.3.1")
    (folder / "htc_ext.so").write_bytes(b"code")
    assert ExportedModel.read(folder, "3.3.1").extension_build == {"paddle": "3.3.1"}


def test_a_foreign_folder_without_this_projects_keys(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", "model.pdmodel")
    _write(folder, {name: CONFIG[name] for name in ("mask", "Preprocess", "label_list")})
    model = ExportedModel.read(folder, "3.3.1")
    assert (model.category_ids, model.mask_threshold, model.draw_threshold) == ([1, 2], 0.5, 0.5)
    assert ExportedModel.read(folder, "2.6.2").graph.name == "model.pdmodel"


def test_the_graph_that_paddle_reads(tmp_path: Path) -> None:
    old, new = _folder(tmp_path / "old", "model.pdmodel"), _folder(tmp_path / "new")
    assert ExportedModel.read(old, "3.3.1").graph.name == "model.pdmodel"
    with pytest.raises(
        UserError, match=r"model\.json was exported by Paddle 3\.3\.1, which Paddle 2\.6\.2 cannot read"
    ):
        ExportedModel.read(new, "2.6.2")


@pytest.mark.parametrize("missing", ["infer_cfg.yml", "model.json", "model.pdiparams"])
def test_a_missing_file(tmp_path: Path, missing: str) -> None:
    folder = _folder(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing.replace(".", r"\.")):
        ExportedModel.read(folder, "3.3.1")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        ExportedModel.read(tmp_path / "nowhere", "3.3.1")


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_files_of_different_exports(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path / "m")
    (folder / name).write_bytes(b"another")
    with pytest.raises(UserError, match=rf"{name} is damaged or does not belong to the same export"):
        ExportedModel.read(folder, "3.3.1")


def test_a_graph_that_the_export_does_not_list(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", "model.pdmodel")
    (folder / "model.json").write_bytes(b"of another Paddle")
    with pytest.raises(UserError, match=r"model\.json does not belong to this export"):
        ExportedModel.read(folder, "3.3.1")


@pytest.mark.parametrize(
    ("export", "culprit"),
    [
        ({"format": 2}, "export.format 2, but this version of deploy supports up to 1"),
        ({"format": "x"}, "export.format x"),
        ({"outputs": "candidates"}, r"export.outputs candidates.*export\.nms=true"),
        ({"outputs": "raw"}, "export.outputs raw"),
    ],
)
def test_exports_of_another_kind(tmp_path: Path, export: dict[str, Any], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        ExportedModel.read(_folder(tmp_path / "m", **export), "3.3.1")


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"label_list": []}, "no label_list"),
        ({"category_ids": [1]}, "1 category_ids for 2 names"),
        ({"Preprocess": None}, "Preprocess must be a list"),
        ({"draw_threshold": "high"}, "draw_threshold"),
        ({"mask_threshold": [0.5]}, "mask_threshold"),
        ({"export": [1]}, "export"),
    ],
)
def test_a_spoilt_configuration(tmp_path: Path, change: dict[str, Any], culprit: str) -> None:
    folder = _folder(tmp_path / "m")
    _write(folder, {**CONFIG, **change})
    with pytest.raises(UserError, match=culprit):
        ExportedModel.read(folder, "3.3.1")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_no_mapping(tmp_path: Path, text: str) -> None:
    folder = _folder(tmp_path / "m")
    (folder / "infer_cfg.yml").write_text(text)
    with pytest.raises(UserError, match=r"infer_cfg\.yml"):
        ExportedModel.read(folder, "3.3.1")
