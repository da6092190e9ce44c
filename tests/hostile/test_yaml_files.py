"""Configurations and ``infer_cfg.yml`` files made to fill the memory, to hang, or to end in a traceback."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.common.bounded_yaml import YamlError, dump_plain, plain
from deploy.python.exported import ExportedModel
from deploy.python.preprocess import LARGEST_SIDE
from ppdet.core.config.yaml_io import parse_yaml, read_config_file
from ppdet.utils.errors import UserError
from tests.deploy.python.test_exported import CONFIG, _folder
from tests.hostile.conftest import LONGEST_MESSAGE, Bench

pytestmark = pytest.mark.same_on_every_paddle

MOST_SECONDS = 2.0
MOST_MEGABYTES = 200


def _laughs(step: str, levels: int = 9) -> str:
    """Every level names the one before it ten times."""
    lines = ["a0: &a0 {k0: 1, k1: 2}"]
    for level in range(1, levels):
        names = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + step.format(names))
    return "\n".join(lines)


BOMBS: dict[str, tuple[str | bytes, str]] = {
    "aliases": (_laughs("[{}]"), "aliases expand without end"),
    "merge keys": (_laughs("{{<<: [{}]}}"), "aliases expand without end"),
    "aliases in mappings": (_laughs("{{x: [{}]}}"), "aliases expand without end"),
    "an alias in itself": ("a: &a [1, *a]", "aliases expand without end"),
    "a merge of itself": ("a: &a {<<: *a}", "aliases expand without end"),
    "a chain of aliases": ("\n".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else ''}]" for n in range(500)), "aliases"),
    "lists 20,000 deep": ("a: " + "[" * 20_000, "nested deeper"),
    "mappings 20,000 deep": ("{a: " * 20_000, "nested deeper"),
    "blocks 20,000 deep": ("- " * 20_000, "nested deeper"),
    "keys 20,000 deep": ("? " * 20_000, "nested deeper"),
    "100,000 values": ("[" + "1," * 100_000 + "]", "more than 40000 values"),
    "two megabytes": ("a: " + "x" * (2 << 20), "too large for a configuration"),
    "comments of two megabytes": ("#" * (2 << 20), "too large for a configuration"),
    "integer of 100,000 digits": ("a: " + "9" * 100_000, "a number with 100000 characters"),
    "integer of 100,000 digits by tag": ("a: !!int " + "9" * 100_000, "a number with 100000 characters"),
    "hours of 50,000 parts": ("a: 1" + ":59" * 50_000, "a number with 150001 characters"),
    "control character": ("a: 1\nb: \x01", "the character 0x0001 is not allowed"),
    "terminal code": ("\x1b[31ma: 1", "the character 0x001b is not allowed"),
    "zero": ('a: "\\0"', "null character or an incomplete character"),
    "half a character": ('a: "\\ud800"', "null character or an incomplete character"),
    "half a character in a key": ('"\\udfff": 1', "null character or an incomplete character"),
    "Latin-1": ("a: é".encode("latin-1"), "not valid UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "not valid UTF-8"),
    "a list for a key": ("? [a, b]\n: 1", "a key must be a plain text"),
    "a key twice": ("a: 1\na: 2", "set twice"),
    "merge of a number": ("a: {<<: 1}", "'<<' takes a mapping"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
    "a tag of Python": ("a: !!python/object/apply:os.system [true]", "not allowed"),
    "a set": ("a: !!set {b}", "not allowed"),
    "bytes": ("a: !!binary aGVsbG8=", "not allowed"),
    "a date by tag": ("a: !!timestamp 2001-99-99", "not allowed"),
    "a number that is none": ("a: !!int abc", "is not a valid int"),
    "a truth value that is none": ("a: !!bool abc", "is not a valid bool"),
    "tabs": ("a:\n\t- 1", "cannot start any token"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "nothing but a brace": ("{", "expected"),
}


def _bounded(read: Any, *arguments: Any) -> str:
    """Call something that has to refuse, fast and in little memory; return the message."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    with pytest.raises(UserError) as caught:
        read(*arguments)
    assert time.process_time() - begun < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < MOST_MEGABYTES
    message = str(caught.value)
    assert len(message) < LONGEST_MESSAGE and "\n" not in message, message
    return message


def _write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("name", BOMBS)
def test_configurations(tmp_path: Path, name: str) -> None:
    content, culprit = BOMBS[name]
    message = _bounded(read_config_file, str(_write(tmp_path / "x.yml", content)))
    assert culprit in message and "x.yml" in message


@pytest.mark.parametrize("name", BOMBS)
def test_infer_cfg(tmp_path: Path, name: str) -> None:
    content, culprit = BOMBS[name]
    folder = _folder(tmp_path / "m")
    _write(folder / "infer_cfg.yml", content)
    message = _bounded(ExportedModel.read, folder, "3.3.1")
    assert culprit in message and "infer_cfg.yml" in message and "export the model again" in message


def test_bases_that_name_each_other_over_and_over(tmp_path: Path) -> None:
    for level in range(30):
        _write(tmp_path / f"{level}.yml", f"_BASE_: [{level + 1}.yml, {level + 1}.yml]")
    _write(tmp_path / "30.yml", "epoch: 1")
    assert "leads to more than 100 files" in _bounded(read_config_file, str(tmp_path / "0.yml"))


def test_aliases_and_merge_keys_of_honest_files() -> None:
    text = """
base: &base {a: 1, b: &b [1, 2]}
other: &other {b: 3, c: {d: 4}}
both: &both
  <<: [*base, *other]
  c: 5
again: {<<: *both}
same: *both
list: [*b, *b]
"""
    expected = {"a": 1, "b": [1, 2], "c": 5}
    for content in (plain(text), parse_yaml(text, "x.yml")):
        assert content["both"] == content["again"] == content["same"] == expected
        assert content["list"] == [[1, 2], [1, 2]] and content["other"] == {"b": 3, "c": {"d": 4}}


def test_what_is_written_is_read_back() -> None:
    names = [
        "1e-3",
        "no",
        "null",
        "2001-01-01",
        "猫 👩\u200d🚀",
        "a: b",
        "",
        "12:30",
        " x",
        "=",
        "<<",
        "\x1b[31m",
        "0x10",
    ]
    numbers = [1, -2.5, 1e-7, 1e300, True, False, None]
    shared = [1, 2]
    content = {"label_list": names, "numbers": numbers, "shared": [shared, shared], "1": {"no": "yes"}}
    assert plain(dump_plain(content)) == content
    assert plain("") is None and plain("\ufeffa: 1"[1:]) == {"a": 1}
    with pytest.raises(YamlError, match="line 2"):
        plain("a: 1\nb: [")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    (layer,) = read_config_file(str(_write(tmp_path / "x.yml", b"\xef\xbb\xbfepoch: 3")))
    assert dict(layer) == {"epoch": 3}


RESIZE = {"type": "Resize", "target_size": [64, 64]}
NORMALIZE = CONFIG["Preprocess"][0]
PERMUTE = {"type": "Permute"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"label_list": None}, "label_list"),
    ({"label_list": "cat"}, "label_list"),
    ({"label_list": []}, "label_list"),
    ({"label_list": {"cat": 1}}, "label_list"),
    ({"label_list": ["cat", None]}, "label_list contains None"),
    ({"label_list": ["cat", ["dog"]]}, "label_list contains"),
    ({"label_list": ["cat"]}, "2 category_ids for 1 names"),
    ({"category_ids": [1, "2"]}, "category_ids"),
    ({"category_ids": [1, True]}, "category_ids"),
    ({"category_ids": [1, 1]}, "category_ids contains an id twice"),
    ({"category_ids": [1, 1 << 64]}, "category_ids"),
    ({"category_ids": []}, "0 category_ids"),
    ({"category_ids": {"a": 1}}, "category_ids"),
    ({"mask": "no"}, "mask is no, expected true or false"),
    ({"mask": 1}, "mask is 1"),
    ({"mask_threshold": "0.5"}, "mask_threshold"),
    ({"mask_threshold": float("nan")}, "mask_threshold"),
    ({"mask_threshold": -1}, "mask_threshold"),
    ({"draw_threshold": 2}, "draw_threshold"),
    ({"draw_threshold": True}, "draw_threshold"),
    ({"draw_threshold": [0.5] * 10_000}, "draw_threshold"),
    ({"export": [1]}, "export"),
    ({"export": {"format": 0}}, "export.format"),
    ({"export": {"format": True}}, "export.format"),
    ({"export": {"format": "\x1b[31m"}}, "export.format"),
    ({"export": {"outputs": ["detections"]}}, "export.outputs"),
    ({"export": {"files": ["model.json"]}}, "export.files"),
    ({"export": {"files": {"model.json": [1]}}}, "checksum differs"),
    ({"export": {"extension": "yes"}}, "extension is yes"),
    *(
        ({"export": {"image_shape": shape}}, "image_shape")
        for shape in (
            "3x64x64",
            [3, 64],
            [3, "64", 64],
            [3, 64.5, 64],
            [3, LARGEST_SIDE + 1, 64],
            [3, -2, 64],
            {"h": 1},
        )
    ),
    *(
        ({"Preprocess": steps}, culprit)
        for steps, culprit in (
            (None, "Preprocess"),
            ("Resize", "Preprocess"),
            ({"type": "Resize"}, "Preprocess"),
            ([], "NormalizeImage and Permute"),
            ([PERMUTE, NORMALIZE], "Permute once, at its end"),
            ([NORMALIZE, PERMUTE, PERMUTE], "Permute once, at its end"),
            ([RESIZE] * 100 + [NORMALIZE, PERMUTE], "102 steps"),
            ([{"type": ["Resize"]}], "is not supported"),
            ([{"type": None}], "is not supported"),
            ([{"type": "Mosaic\x1b[31m"}], r"Mosaic\x1b[31m"),
            ([{**NORMALIZE, "mean": "0"}], "mean and std"),
            ([{**NORMALIZE, "mean": [0, 0, float("inf")]}], "mean and std"),
            ([{**NORMALIZE, "mean": [0, 0, True]}], "mean and std"),
            ([{**NORMALIZE, "std": [1, 0, 1]}], "must be positive"),
            ([{**NORMALIZE, "std": None}], "mean and std"),
            ([{**NORMALIZE, "is_scale": "yes"}], "is_scale is yes"),
            ([{**NORMALIZE, "norm_type": 3}], "norm_type is 3"),
            ([{"type": "NormalizeImage"}], "'mean' is missing"),
            ([{"type": "Permute", "to": "chw"}], "unknown argument 'to'"),
            ([{"type": "Resize"}], "'target_size' is missing"),
            ([{**RESIZE, "interp": 99}], "interp is 99"),
            ([{**RESIZE, "interp": True}], "interp is True"),
            ([{**RESIZE, "keep_ratio": 1}], "keep_ratio is 1"),
            *(
                ([{**RESIZE, "target_size": size}], "target_size")
                for size in (0, -1, [64], [64, 64, 64], "64", [64, "64"], [1 << 30, 1 << 30], [64.5, 64], None, True)
            ),
            *(([{"type": "PadStride", "stride": stride}], "stride") for stride in (1 << 30, -5, "32", 1.5, None)),
        )
    ),
]


@pytest.mark.parametrize(("change", "culprit"), WRONG, ids=str)
def test_entries_of_infer_cfg(tmp_path: Path, change: dict[str, Any], culprit: str) -> None:
    folder = _folder(tmp_path / "m")
    content = plain((folder / "infer_cfg.yml").read_text())
    if isinstance(change.get("export"), dict):
        change = {"export": {**content["export"], **change["export"]}}
    _write(folder / "infer_cfg.yml", dump_plain({**content, **change}))
    message = _bounded(ExportedModel.read, folder, "3.3.1")
    assert culprit in message and "\x1b" not in message.replace(str(tmp_path), ""), message


@pytest.mark.parametrize("key", list(CONFIG))
def test_a_missing_entry_has_a_default_or_is_named(tmp_path: Path, key: str) -> None:
    folder = _folder(tmp_path / "m")
    content = plain((folder / "infer_cfg.yml").read_text())
    del content[key]
    _write(folder / "infer_cfg.yml", dump_plain(content))
    if key in ("Preprocess", "label_list"):
        assert key in _bounded(ExportedModel.read, folder, "3.3.1")
    else:
        assert ExportedModel.read(folder, "3.3.1").class_names == ["cat", "dog"]


@pytest.mark.parametrize("file", ["model.json", "model.pdiparams"])
def test_damaged_model_files_are_found_by_their_checksums(tmp_path: Path, file: str) -> None:
    folder = _folder(tmp_path / "m")
    whole = (folder / file).read_bytes()
    for content in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:], whole + b"x"):
        (folder / file).write_bytes(content)
        assert "its checksum differs" in _bounded(ExportedModel.read, folder, "3.3.1")


def _mutated(text: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(text))
    kind = draw.randrange(4)
    if kind == 0:
        return text[:place] + bytes([text[place] ^ (1 << draw.randrange(8))]) + text[place + 1 :]
    if kind == 1:
        return text[:place]
    if kind == 2:
        tokens = [
            b"&a ",
            b"*a",
            b"<<: ",
            b"!!",
            b"!",
            b"[",
            b"]",
            b"{",
            b"}",
            b"\n",
            b": ",
            b"- ",
            b'"',
            b"|",
            b"%",
            b"? ",
        ]
        return text[:place] + draw.choice([*tokens, bytes([draw.randrange(256)])]) + text[place:]
    other = draw.randrange(len(text))
    return text[:place] + text[other : other + draw.randint(1, 40)] + text[place:]


def test_damaged_files_end_in_one_line(tmp_path: Path, bench: Bench) -> None:
    draw = random.Random(11)
    config = bench.config.read_bytes()
    folder = _folder(tmp_path / "m")
    about = (folder / "infer_cfg.yml").read_bytes()
    refused = 0
    for _ in range(300):
        for read, file, whole in (
            (lambda: read_config_file(str(tmp_path / "x.yml")), tmp_path / "x.yml", config),
            (lambda: ExportedModel.read(folder, "3.3.1"), folder / "infer_cfg.yml", about),
        ):
            file.write_bytes(_mutated(whole, draw))
            try:
                result = read()
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                if isinstance(result, ExportedModel):
                    assert len(result.category_ids) == len(result.class_names)
                    result.preprocessing([np.zeros((8, 9, 3), np.uint8)])
    assert refused > 200


@pytest.mark.parametrize("tool", ["train", "eval", "infer", "export_model"])
@pytest.mark.parametrize("name", ["merge keys", "lists 20,000 deep", "terminal code"])
def test_tools_refuse_in_one_line(bench: Bench, tool: str, name: str) -> None:
    content, culprit = BOMBS[name]
    more = ["--infer_dir", str(bench.data / "val")] if tool == "infer" else []
    bench.refused(tool, *more, config=bench.write("x.yml", content), names=(culprit, "x.yml"))


def test_values_of_the_command_line(bench: Bench) -> None:
    bench.refused("train", "-o", "epoch=" + "9" * 100_000, names="a number with 100000 characters")
    bench.refused("train", "-o", "epoch=" + "[" * 1000, names="nested deeper")
    bench.refused("train", "-o", 'save_dir="\\0"', names="null character")
    bench.refused("train", "-o", "k\x1b[31m" * 1000 + "=1", names="\\x1b[31m")
