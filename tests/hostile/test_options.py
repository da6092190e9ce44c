"""Options of every command line: numbers out of range, and what is answered before Paddle is imported."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.common.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle

PROGRAMS = {
    "tools/train.py": "train:parse",
    "tools/eval.py": "eval:parse",
    "tools/infer.py": "infer:parse",
    "tools/export_model.py": "export_model:parse",
    "tools/convert_weights.py": "convert_weights:parse",
    "tools/make_semantic_maps.py": "make_semantic_maps:parse_args",
    "deploy/python/infer.py": "deploy.python.options:parse",
    "deploy/serving/server.py": "deploy.serving.server:parse",
    "dataset/make_subset.py": "dataset.make_subset:main",
    "dataset/demo/make_demo.py": "dataset.demo.make_demo:main",
    "benchmarks/agreement.py": "benchmarks.agreement:parse",
    "benchmarks/inference.py": "benchmarks.inference:parse",
}
"""Every program of this project, and the function that reads its command line."""

NUMBERS = {
    "tools/infer.py": ("--draw_threshold", "--save_threshold"),
    "tools/export_model.py": ("--opset",),
    "tools/convert_weights.py": ("--tolerance",),
    "deploy/python/infer.py": ("--camera_id", "--batch_size", "--threshold", "--cpu_threads"),
    "deploy/serving/server.py": (
        *("--port", "--cpu_threads", "--max_batch", "--max_delay_ms", "--queue_size", "--timeout"),
        *("--max_bytes", "--max_pixels", "--threshold"),
    ),
    "dataset/demo/make_demo.py": ("--train", "--val", "--size", "--seed", "--classes"),
    "benchmarks/agreement.py": ("--batch_size", "--count"),
    "benchmarks/inference.py": ("--count", "--threads", "--repeat"),
}

IMPOSSIBLE = ("-2", "nan", "inf", "-inf", "1e400", "many", "", " ", "0x10", "1" * 5000)
"""Of no numeric option a value."""


class _Captured(Exception):
    """Carries a parser out of the function that made it."""


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> Iterator[dict[str, argparse.ArgumentParser]]:
    """The parser of each program."""
    monkeypatch.syspath_prepend(str(repo_root / "tools"))
    found = {}
    for program, function in PROGRAMS.items():
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", _capture)
            with pytest.raises(_Captured) as caught:
                call()
        found[program] = caught.value.args[0]
    return found


def _capture(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
    raise _Captured(parser)


def test_no_program_is_forgotten(repo_root: Path) -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=repo_root, capture_output=True, text=True, check=True
    ).stdout
    having = [
        file
        for file in files.split()
        if file.split("/")[0] in ("tools", "deploy", "dataset", "benchmarks", "ppdet")
        and ".parse_args(" in (repo_root / file).read_text(encoding="utf-8")
    ]
    behind = {"deploy/python/options.py", "ppdet/utils/cli.py"}  # the others' command lines are read there
    assert set(having) - behind == set(PROGRAMS) - {"deploy/python/infer.py"}


def test_every_number_declares_its_range(parsers: dict[str, argparse.ArgumentParser]) -> None:
    for program, parser in parsers.items():
        bare = [action.option_strings for action in parser._actions if action.type in (int, float)]
        assert not bare, f"{program}: {bare} take any number; use the types of deploy.common.command_line"
        for option in NUMBERS.get(program, ()):
            assert option in parser._option_string_actions


@pytest.mark.parametrize("program", NUMBERS)
def test_impossible_numbers_are_refused(parsers: dict[str, argparse.ArgumentParser], program: str) -> None:
    parser = parsers[program]
    for option in NUMBERS[program]:
        for value in IMPOSSIBLE:
            with pytest.raises(UserError) as caught:
                argparse.ArgumentParser.parse_args(parser, [f"{option}={value}"])
            message = str(caught.value)
            assert f"argument {option}: expected a " in message and "number" in message and len(message) < 200


@pytest.mark.parametrize(
    ("program", "option", "refused", "accepted", "bounds"),
    [
        ("tools/infer.py", "--draw_threshold", ["2", "-0.1", "1.0001"], ["0", "1", "5e-1"], "from 0 to 1"),
        ("tools/infer.py", "--save_threshold", ["2", "-0.1"], ["0", "1"], "from 0 to 1"),
        ("tools/export_model.py", "--opset", ["15", "20"], ["16", "19"], "from 16 to 19"),
        ("tools/convert_weights.py", "--tolerance", ["-1e-9"], ["0", "1e-5"], "of 0 or more"),
        ("deploy/python/infer.py", "--threshold", ["1.5"], ["0", "1"], "from 0 to 1"),
        ("deploy/python/infer.py", "--batch_size", ["0", "1.5", "99999999999999999999"], ["1", "64"], "of 1 or more"),
        ("deploy/python/infer.py", "--cpu_threads", ["0", "1025"], ["1", "1024"], "from 1 to 1024"),
        ("deploy/python/infer.py", "--camera_id", ["-2", "x", "2147483648"], ["0", "-1"], "from -1 to 9999"),
        ("deploy/serving/server.py", "--port", ["65536", "-1"], ["0", "65535"], "from 0 to 65535"),
        ("deploy/serving/server.py", "--timeout", ["0"], ["0.001", "60"], "from 0.001 to 86400"),
        ("deploy/serving/server.py", "--max_batch", ["0"], ["1"], "of 1 or more"),
        ("dataset/demo/make_demo.py", "--size", ["95", "1025"], ["96", "1024"], "from 96 to 1024"),
        ("benchmarks/inference.py", "--threads", ["0"], ["2"], "from 1 to 1024"),
        ("benchmarks/agreement.py", "--count", ["0"], ["1"], "of 1 or more"),
    ],
)
def test_ranges(
    parsers: dict[str, argparse.ArgumentParser],
    program: str,
    option: str,
    refused: list[str],
    accepted: list[str],
    bounds: str,
) -> None:
    action = parsers[program]._option_string_actions[option]
    assert callable(action.type)
    for value in accepted:
        assert action.type(value) == float(value)
    for value in refused:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a .*number {bounds}, got '{value}'"):
            action.type(value)


@pytest.mark.parametrize(
    ("program", "option"),
    [
        ("tools/infer.py", "--output_dir"),
        ("tools/export_model.py", "--output_dir"),
        ("tools/eval.py", "--output_eval"),
        ("tools/train.py", "--vdl_log_dir"),
        ("tools/make_semantic_maps.py", "--output"),
        ("deploy/python/infer.py", "--output_dir"),
        ("dataset/demo/make_demo.py", "--output"),
    ],
)
def test_an_empty_folder_name_is_not_the_working_folder(
    parsers: dict[str, argparse.ArgumentParser], program: str, option: str
) -> None:
    with pytest.raises(UserError, match=f"argument {option}.*: expected a path, got an empty text"):
        argparse.ArgumentParser.parse_args(parsers[program], [f"{option}="])


@pytest.mark.parametrize("sizes", ["800", "0x3", "axb", "-1x5", "1x2x3", "99999999x1"])
def test_sizes_of_the_benchmark(parsers: dict[str, argparse.ArgumentParser], sizes: str) -> None:
    with pytest.raises(UserError, match="argument --sizes: expected LONGxSHORT in pixels such as 1333x800"):
        argparse.ArgumentParser.parse_args(parsers["benchmarks/inference.py"], [f"--sizes={sizes}"])


def _without_paddle(repo_root: Path, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where importing Paddle fails, loudly."""
    code = (
        "import runpy, sys\n"
        "sys.modules['paddle'] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(repo_root / program), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, env={**os.environ})


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_paddle(repo_root: Path, tmp_path: Path, program: str) -> None:
    done = _without_paddle(repo_root, program, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("usage: ") and done.stderr == ""


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("tools/train.py", ["-c", "nowhere.yml"], "nowhere.yml"),
        ("tools/eval.py", ["-c", "a.yml", "--clsswise"], "--clsswise"),
        ("tools/infer.py", ["-c", "a.yml", "--infer_img", "none.jpg"], "the image none.jpg does not exist"),
        ("tools/export_model.py", ["-c", "a.yml", "--opset", "3"], "--opset"),
        ("deploy/python/infer.py", ["--model_dir", "m", "--image_file", "none.jpg"], "none.jpg does not exist"),
    ],
)
def test_mistakes_are_answered_before_paddle_is_imported(
    repo_root: Path, tmp_path: Path, program: str, arguments: list[str], message: str
) -> None:
    done = _without_paddle(repo_root, program, *arguments, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr and not list(tmp_path.iterdir())


def test_a_missing_paddle_is_answered_with_its_installation(repo_root: Path, tmp_path: Path) -> None:
    config = str(repo_root / "configs" / "demo" / "htc_r18_demo.yml")
    done = _without_paddle(repo_root, "tools/train.py", "-c", config, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: PaddlePaddle is not installed; run: pip install -r requirements-cpu.txt")
