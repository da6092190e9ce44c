"""Reading and validation of exported folders and their ``infer_cfg.yml``."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.common.bounded_yaml import YamlError, read_plain
from deploy.common.errors import UserError
from deploy.common.printable import one_line, shown
from deploy.python.interface import Interface
from deploy.python.preprocess import Preprocessing

__all__ = ["FORMAT", "ExportedModel"]

FORMAT = 1
"""The latest supported version of the folder layout."""

CONFIG = "infer_cfg.yml"
PARAMETERS = "model.pdiparams"
LIBRARY = "htc_ext.so"
"""The compiled C++ extension, part of exports that use it."""
GRAPHS = ("model.json", "model.pdmodel")
"""File names of the graph in exports of Paddle 3 and Paddle 2."""


@dataclass(frozen=True)
class ExportedModel:
    """A validated exported folder.

    Attributes:
        folder: the exported folder.
        graph: file of the graph, in a format that the installed Paddle can read.
        parameters: file of the weights.
        preprocessing: converts images to inputs of the graph.
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        has_masks: the model predicts masks.
        interface: inputs and outputs of the graph.
        mask_threshold: a pixel belongs to a mask if its probability is at least this value.
        draw_threshold: minimum score of objects that are shown.
        extension: the graph contains operators of the C++ extension.
        extension_build: the platform for which the copy of the extension in the folder was built; None without a copy.
    """

    folder: Path
    graph: Path
    parameters: Path
    preprocessing: Preprocessing
    class_names: list[str]
    category_ids: list[int]
    has_masks: bool
    interface: Interface
    mask_threshold: float
    draw_threshold: float
    extension: bool = False
    extension_build: Any = None

    @classmethod
    def read(cls, folder: str | Path, paddle_version: str) -> ExportedModel:
        """Read and validate a folder.

        Args:
            folder: written by tools/export_model.py, or exported from a two-stage detector by PaddleDetection.
            paddle_version: version of the installed Paddle.

        Raises:
            UserError: a file is missing, damaged, invalid, or requires a newer version of this code or of Paddle.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise UserError(f"model_dir must be an exported folder, got {folder!r}")
        folder = Path(folder)
        if folder.is_file():
            raise UserError(
                f"{folder} is a file, not a folder: model_dir must be an exported folder, such as {folder.parent}"
            )
        if not folder.is_dir():
            raise UserError(f"the folder {folder} does not exist; create it with tools/export_model.py")
        config_file = folder / CONFIG
        config = _read_config(config_file)
        about = config.get("export") or {}
        if not isinstance(about, Mapping):
            raise UserError(f"{config_file}: export is not a mapping: export the model again")
        _check_kind(about, config_file)
        names, ids = _classes(config, config_file)
        preprocessing = Preprocessing.from_config(config.get("Preprocess"), str(config_file), about.get("image_shape"))
        has_masks = _flag(config, "mask", config_file)
        interface = Interface.from_config(config, has_masks, config_file)
        graph = _find_graph(folder, about, paddle_version)
        parameters = folder / PARAMETERS
        if not parameters.is_file():
            raise UserError(f"{parameters} is missing: copy the whole export folder, or export the model again")
        extension = _flag(about, "extension", config_file)
        extension_build = about.get("extension_build") if extension else None
        library = () if extension_build is None else (_require_library(folder),)
        _check_files(folder, (graph, parameters, *library), about)
        return cls(
            folder=folder,
            graph=graph,
            parameters=parameters,
            preprocessing=preprocessing,
            class_names=names,
            category_ids=ids,
            has_masks=has_masks,
            interface=interface,
            mask_threshold=_number(config, "mask_threshold", config_file),
            draw_threshold=_number(config, "draw_threshold", config_file),
            extension=extension,
            extension_build=extension_build,
        )


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        config = read_plain(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: {file.parent} was not written by tools/export_model.py") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except YamlError as error:
        raise UserError(
            f"cannot read {file} as YAML: {error}; copy the export folder again, or export the model again"
        ) from error
    if not isinstance(config, Mapping):
        raise UserError(f"{file} is not a mapping: export the model again")
    return config


def _classes(config: Mapping[str, Any], file: Path) -> tuple[list[str], list[int]]:
    """Return the names and category ids of the labels; the ids default to 1, 2, ...."""
    names = config.get("label_list")
    if not isinstance(names, list) or not names:
        raise UserError(f"{file} has no label_list (the names of the classes): export the model again")
    wrong = next((name for name in names if not isinstance(name, (str, int, float))), names)
    if wrong is not names:
        raise UserError(f"{file}: label_list contains {shown(wrong)} instead of a name: export the model again")
    ids = config.get("category_ids")
    if ids is None:
        ids = list(range(1, len(names) + 1))
    if not isinstance(ids, list) or not all(
        type(category_id) is int and abs(category_id) < 1 << 63 for category_id in ids
    ):
        raise UserError(f"{file}: category_ids is not a list of integers: export the model again")
    if len(ids) != len(names):
        raise UserError(
            f"{file} has {len(ids)} category_ids for {len(names)} names in label_list: export the model again"
        )
    if len(set(ids)) != len(ids):
        raise UserError(f"{file}: category_ids contains an id twice: export the model again")
    return [str(name) for name in names], ids


def _flag(config: Mapping[str, Any], key: str, file: Path) -> bool:
    """Return a boolean, by default false."""
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{file}: {key} is {shown(value)}, expected true or false: export the model again")
    return value


def _number(config: Mapping[str, Any], key: str, file: Path) -> float:
    """Return a score or probability, by default 0.5."""
    value = config.get(key, 0.5)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"{file}: {key} is {shown(value)}, expected a number from 0 to 1")
    return float(value)


def _check_kind(about: Mapping[str, Any], file: Path) -> None:
    """Refuse unknown layouts, and graphs that do not return detections."""
    version = about.get("format", FORMAT)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(
            f"{file} has export.format {shown(version)}, but this version of deploy supports up to {FORMAT}: update "
            "deploy"
        )
    outputs = about.get("outputs", "detections")
    if outputs != "detections":
        raise UserError(
            f"{file} has export.outputs {shown(outputs)}, but only detections are supported: export with -o "
            "export.nms=true"
        )


def _find_graph(folder: Path, about: Mapping[str, Any], paddle_version: str) -> Path:
    """Return the graph; Paddle 3 reads both formats, while Paddle 2 crashes on that of Paddle 3."""
    graphs = [folder / name for name in GRAPHS if (folder / name).is_file()]
    if not graphs:
        raise UserError(
            f"{folder} has no graph ({' or '.join(GRAPHS)}): copy the whole export folder, or export the model again"
        )
    if int(paddle_version.partition(".")[0]) >= 3:
        return graphs[0]
    if graphs[-1].name != GRAPHS[1]:
        maker = f"Paddle {one_line(about['paddle'], 20)}" if about.get("paddle") else "Paddle 3"
        raise UserError(
            f"{graphs[-1]} was exported by {maker}, which Paddle {paddle_version} cannot read: "
            f"export the model again with Paddle {paddle_version}"
        )
    return graphs[-1]


def _require_library(folder: Path) -> Path:
    """Return the copy of the C++ extension that the export lists."""
    library = folder / LIBRARY
    if not library.is_file():
        raise UserError(f"{library} is missing: copy the whole export folder, or export the model again")
    return library


def _check_files(folder: Path, files: tuple[Path, ...], about: Mapping[str, Any]) -> None:
    """Compare the checksums of the files with those in infer_cfg.yml."""
    recorded = about.get("files") or {}
    if not isinstance(recorded, Mapping):
        raise UserError(
            f"{folder / CONFIG}: export.files is {shown(recorded)}, expected a mapping from file names to checksums: "
            "export the model again"
        )
    for file in files:
        expected = recorded.get(file.name)
        if recorded and expected is None:
            raise UserError(f"{file} does not belong to this export: {folder / CONFIG} does not list it")
        if expected is not None and str(expected) != _checksum(file):
            raise UserError(
                f"{file} is damaged or does not belong to the same export as {folder / CONFIG} (its checksum differs): "
                "copy the whole export folder again"
            )


def _checksum(path: Path) -> str:
    """Return the CRC-32 as eight hexadecimal digits."""
    value = 0
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                value = zlib.crc32(block, value)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return f"{value:08x}"
