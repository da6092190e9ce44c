"""The exported folder: what must be in it, and what ``infer_cfg.yml`` says."""

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
"""The newest layout of the folder that is understood."""

CONFIG = "infer_cfg.yml"
PARAMETERS = "model.pdiparams"
LIBRARY = "htc_ext.so"
"""The compiled C++ extension, in exports that use it."""
GRAPHS = ("model.json", "model.pdmodel")
"""Graph of Paddle 3 and of Paddle 2."""


@dataclass(frozen=True)
class ExportedModel:
    """A checked folder.

    Attributes:
        folder: of the export.
        graph: file of the graph that this Paddle reads.
        parameters: file of the weights.
        preprocessing: from images to inputs.
        class_names: name of each label.
        category_ids: the data set's category id of each label.
        has_masks: the model predicts masks.
        interface: inputs and outputs of the graph.
        mask_threshold: a pixel belongs to a mask if its probability is at least this value.
        draw_threshold: lowest score to show.
        extension: the graph has operators of the C++ extension.
        extension_build: what the copy of the extension in the folder was built for; None without a copy.
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
        """Read and check a folder.

        Args:
            folder: written by tools/export_model.py, or a two-stage detector's of PaddleDetection.
            paddle_version: of the Paddle that will run it.

        Raises:
            UserError: anything missing, mixed up, newer than this code or for another Paddle.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise UserError(f"model_dir takes the folder of an export, got {folder!r}")
        folder = Path(folder)
        if folder.is_file():
            raise UserError(f"{folder} is a file, not a folder: model_dir is the folder of an export, {folder.parent}?")
        if not folder.is_dir():
            raise UserError(f"the folder {folder} does not exist; make it with tools/export_model.py")
        config_file = folder / CONFIG
        config = _read_config(config_file)
        about = config.get("export") or {}
        if not isinstance(about, Mapping):
            raise UserError(f"{config_file}: export is no mapping of keys: export again")
        _check_kind(about, config_file)
        names, ids = _classes(config, config_file)
        preprocessing = Preprocessing.from_config(config.get("Preprocess"), str(config_file), about.get("image_shape"))
        has_masks = _flag(config, "mask", config_file)
        interface = Interface.from_config(config, has_masks, config_file)
        graph = _find_graph(folder, about, paddle_version)
        parameters = folder / PARAMETERS
        if not parameters.is_file():
            raise UserError(f"{parameters} is missing: copy the whole export folder, or export again")
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
        raise UserError(f"{file} is missing: {file.parent} is no folder of tools/export_model.py") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except YamlError as error:
        raise UserError(
            f"cannot read {file} as YAML: {error}; copy the export folder again, or export again"
        ) from error
    if not isinstance(config, Mapping):
        raise UserError(f"{file} is not a mapping of keys: export again")
    return config


def _classes(config: Mapping[str, Any], file: Path) -> tuple[list[str], list[int]]:
    """Names and category ids of the labels; ids from 1 where the file has none."""
    names = config.get("label_list")
    if not isinstance(names, list) or not names:
        raise UserError(f"{file} has no label_list, the names of the classes: export again")
    wrong = next((name for name in names if not isinstance(name, (str, int, float))), names)
    if wrong is not names:
        raise UserError(f"{file}: label_list has {shown(wrong)} in place of a name: export again")
    ids = config.get("category_ids")
    if ids is None:
        ids = list(range(1, len(names) + 1))
    if not isinstance(ids, list) or not all(type(number) is int and abs(number) < 1 << 63 for number in ids):
        raise UserError(f"{file}: category_ids is no list of whole numbers: export again")
    if len(ids) != len(names):
        raise UserError(f"{file} has {len(ids)} category_ids for {len(names)} names: export again")
    if len(set(ids)) != len(ids):
        raise UserError(f"{file}: category_ids has a number twice: export again")
    return [str(name) for name in names], ids


def _flag(config: Mapping[str, Any], key: str, file: Path) -> bool:
    """True or false, false where the file does not say."""
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{file}: {key} is {shown(value)}, expected true or false: export again")
    return value


def _number(config: Mapping[str, Any], key: str, file: Path) -> float:
    """A score or probability, 0.5 where the file does not say."""
    value = config.get(key, 0.5)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserError(f"{file}: {key} is {shown(value)}, expected a number from 0 to 1")
    return float(value)


def _check_kind(about: Mapping[str, Any], file: Path) -> None:
    """Refuse an unknown layout and outputs that are no detections."""
    version = about.get("format", FORMAT)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(f"{file} has export.format {shown(version)}, this code knows up to {FORMAT}: update it")
    outputs = about.get("outputs", "detections")
    if outputs != "detections":
        raise UserError(f"{file} has export.outputs {shown(outputs)}, no detections: export with -o export.nms=true")


def _find_graph(folder: Path, about: Mapping[str, Any], paddle_version: str) -> Path:
    """The graph that this Paddle reads; Paddle 3 reads both kinds, Paddle 2 crashes on the new one."""
    found = [folder / name for name in GRAPHS if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder} has no graph ({' or '.join(GRAPHS)}): copy the whole export folder, or export again")
    if int(paddle_version.partition(".")[0]) >= 3:
        return found[0]
    if found[-1].name != GRAPHS[1]:
        maker = f"Paddle {one_line(about['paddle'], 20)}" if about.get("paddle") else "Paddle 3"
        raise UserError(
            f"{found[-1]} was exported by {maker}, which Paddle {paddle_version} does not read: "
            f"export again under Paddle {paddle_version}"
        )
    return found[-1]


def _require_library(folder: Path) -> Path:
    """The copy of the C++ extension that the export has listed."""
    library = folder / LIBRARY
    if not library.is_file():
        raise UserError(f"{library} is missing: copy the whole export folder, or export again")
    return library


def _check_files(folder: Path, files: tuple[Path, ...], about: Mapping[str, Any]) -> None:
    """Compare the files with the checksums of the export."""
    recorded = about.get("files") or {}
    if not isinstance(recorded, Mapping):
        raise UserError(
            f"{folder / CONFIG}: export.files is {shown(recorded)}, expected checksums by file: export again"
        )
    for file in files:
        expected = recorded.get(file.name)
        if recorded and expected is None:
            raise UserError(f"{file} is not of this export: {folder / CONFIG} does not list it")
        if expected is not None and str(expected) != _checksum(file):
            raise UserError(
                f"{file} is damaged or of another export than {folder / CONFIG} (its checksum differs): "
                "copy the whole export folder again"
            )


def _checksum(path: Path) -> str:
    """CRC-32 as eight hexadecimal digits."""
    value = 0
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                value = zlib.crc32(block, value)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return f"{value:08x}"
