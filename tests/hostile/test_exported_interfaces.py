"""Descriptions of graphs, files of extra inputs, and outputs of graphs that are nonsense."""

from __future__ import annotations

import copy
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deploy.common.bounded_yaml import dump_plain, plain
from deploy.common.command_line import main_guard
from deploy.common.errors import UserError
from deploy.common.extra_inputs import ExtraInput, ExtraInputs
from deploy.common.model_outputs import check_outputs, split_outputs
from deploy.python import infer
from deploy.python.exported import ExportedModel
from deploy.python.interface import Interface
from tests.deploy.python.test_exported import _folder

INTERFACE: dict[str, Any] = {
    "mask_frame": "affine",
    "inputs": ["image", "scale_factor", "keypoints", "grid"],
    "outputs": ["bbox", "bbox_num", "mask", "mask_matrix", "mask_score"],
    "extra_inputs": [
        {"name": "keypoints", "shape": ["B", None, 17, 3], "dtype": "float32"},
        {"name": "grid", "shape": [None, 2], "dtype": "int64"},
    ],
}
HOSTILE: list[Any] = [
    *(None, True, 0, -1, 1.5, float("nan"), 1 << 62, "", "x", "image", "B", "\x1b[31m", "x" * 10_000),
    *([], {}, [[]], ["image"] * 200, [None], {"a": 1}, ["B"] * 9, [[["B"]]], ["bbox", "bbox_num", "mask"]),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and mappings."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield (*path, key)
        yield from _places(part, (*path, key))


def _replaced(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(INTERFACE)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    if value is _replaced:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_every_value_of_the_description_replaced(tmp_path: Path) -> None:
    """Each of them is refused in one line that names the key, or gives a model whose parts agree."""
    folder = _folder(tmp_path / "m")
    file = folder / "infer_cfg.yml"
    about = plain(file.read_text())
    refused = accepted = 0
    for number, (path, value) in enumerate(itertools.product(_places(INTERFACE), [_replaced, *HOSTILE])):
        content = _replaced(path, value)
        try:
            if number % 10 == 0:  # through the file, which takes more time
                file.write_text(dump_plain({**about, **content}))
                interface = ExportedModel.read(folder, "3.3.1").interface
            else:
                interface = Interface.from_config(content, True, file)
        except UserError as error:
            refused += 1
            message = str(error).replace(str(folder), "")
            assert len(message) < 500 and "\n" not in message and "\x1b" not in message
            assert any(key in message for key in INTERFACE), message
            continue
        accepted += 1
        assert {one.name for one in interface.extra_inputs} <= set(interface.inputs)
        blank = interface.extra_inputs.blank()
        interface.extra_inputs.of_batch(interface.extra_inputs.stack([blank]), 1)
    assert refused > 500 and accepted > 20


FILES: list[tuple[Any, str]] = [
    (None, "does not exist"),
    (b"", "not valid JSON"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b"9" * 10_000, "digits"),
    ([], "is not a mapping from file names"),
    ({}, "no entry for the image a.png"),
    ({"A.PNG": {}}, "no entry for the image a.png"),
    ({"a.png": None}, "keypoints (float32 [any, 17, 3]) is missing"),
    ({"a.png": "x" * 100_000}, "expected a mapping from extra inputs"),
    ({"a.png": {"\x1b[31m": 1}}, "\\x1b[31m"),
    ({"a.png": {"keypoints": 1}}, "has the shape []"),
    ({"a.png": {"keypoints": [[[1, 2, 3]] * 17] * 2 + [[]]}}, "lists of different lengths"),
    ({"a.png": {"keypoints": [[[1e39, 2, 3]] * 17]}}, "not finite"),
    ({"a.png": {"keypoints": [[[None, 2, 3]] * 17]}}, "expected float32 [any, 17, 3]"),
]


class _Predictor:
    """Requires keypoints; a call would fail."""

    extra_inputs = ExtraInputs([ExtraInput("keypoints", ("B", None, 17, 3))])
    has_boxes = has_masks = True
    draw_threshold = 0.5


@pytest.mark.parametrize(("content", "culprit"), FILES, ids=[culprit for _, culprit in FILES])
def test_files_of_extra_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: Any, culprit: str
) -> None:
    monkeypatch.setattr(infer, "Predictor", lambda *_: _Predictor())
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    file = tmp_path / "extra.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    options = ["--model_dir", "m", "--image_file", str(tmp_path / "a.png"), "--extra_inputs", str(file)]
    monkeypatch.setattr(sys, "argv", ["infer.py", *options, "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main_guard(infer.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("error: ") and culprit in line and "extra.json" in line
    assert len(line) < 700 and "\x1b" not in line
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_outputs_of_any_kind_are_refused_or_pasted() -> None:
    """Arrays of random types, shapes and values: one line, or detections that can be drawn and written."""
    draw, rng = random.Random(4), np.random.default_rng(4)
    sizes = {"bbox": (3, 6), "instances": (3, 2), "bbox_num": (2,), "mask": (3, 5, 5)}
    sizes = {**sizes, "mask_extent": (2, 2), "mask_matrix": (3, 2, 3), "mask_score": (3,)}
    special = [0.0, -1.0, np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30, 0.5]
    refused = pasted = 0
    for _ in range(400):
        placement = draw.choice([(), ("mask_extent",), ("mask_matrix",)])
        key = "bbox" if not placement or draw.random() < 0.5 else "instances"
        outputs: dict[str, np.ndarray] = {}
        for name in (key, "bbox_num", "mask", *placement, "mask_score"):
            array = rng.uniform(-3, 12, sizes[name]).astype(np.float32)
            for _ in range(draw.randrange(4)):
                array.flat[draw.randrange(array.size)] = draw.choice(special)
            outputs[name] = array
        outputs["bbox_num"] = np.array([2, 1], np.int32)
        outputs[key][:, 0] = [0, 1, draw.choice([1, 1, 1, 2])]
        if draw.random() < 0.2:
            spoilt = draw.choice(list(outputs))
            outputs[spoilt] = draw.choice([outputs[spoilt][:-1], outputs[spoilt][None], outputs[spoilt].astype(str)])
        try:
            check_outputs(outputs, 2, 2, "model.json")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        for image in split_outputs(outputs, [(9, 11), (1, 1)], ["a", "b"], [1, 2]):
            pasted += len(image)
            assert image.draw(np.zeros((*image.size, 3), np.uint8)).shape == (*image.size, 3)
            for index in range(len(image)):
                assert image.bitmap(index).shape == image.size and image.rle(index)["size"] == list(image.size)
            image.to_coco(0)
    assert refused > 50 and pasted > 300
