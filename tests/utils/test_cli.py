"""Command lines: overrides, flags, and how a tool ends."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppdet.core.config.errors import ConfigError
from ppdet.core.config.node import Descriptor
from ppdet.utils.cli import ArgsParser, main_guard, parse_overrides, str2bool
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-.5e1", -5.0),
        ("1.", 1.0),
        ("[1, 2.5, a]", [1, 2.5, "a"]),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("output/a/model_final", "output/a/model_final"),
        ("https://host/a.pdparams", "https://host/a.pdparams"),
        ("a=b", "a=b"),
        ("'1'", "1"),
        ("2026-01-02", "2026-01-02"),
        ("{b: {c: 1}}", {"b": {"c": 1}}),
    ],
)
def test_override_values_are_yaml(text: str, value: object) -> None:
    parsed = parse_overrides([f"key={text}"])["key"]
    assert parsed == value and type(parsed) is (type(value) if not isinstance(value, dict) else type(parsed))


def test_override_may_be_a_tagged_call() -> None:
    value = parse_overrides(["D=!Set {a: 1}"])["D"]
    assert isinstance(value, Descriptor) and (value.class_name, value.a) == ("Set", 1)


def test_every_assignment_takes_effect_also_of_repeated_options() -> None:
    args = ArgsParser().parse_args(["-c", "a.yml", "-o", "A.b=1", "A.c=2", "-o", "A.d.e=3", "f=4", "A.b=5"])
    assert args.config == "a.yml"
    assert args.opt == {"A": {"b": 5, "c": 2, "d": {"e": 3}}, "f": 4}


def test_no_override_is_an_empty_mapping() -> None:
    assert ArgsParser().parse_args(["--config", "a.yml"]).opt == {}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["epoch"], "takes KEY=VALUE .* got 'epoch'"),
        (["=1"], "takes KEY=VALUE"),
        (["A..b=1"], "takes KEY=VALUE"),
        (["A=[1,"], r"-o A=\[1,: cannot read as YAML"),
        (["A=1", "A.b=2"], "sets both 'A' and 'A.b'"),
        (["A.b=2", "A=1"], "sets both 'A' and keys below it"),
        (["A=!!python/object/new:os.system [ls]"], "not allowed"),
    ],
)
def test_malformed_overrides_are_named(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides(assignments)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [([], False), (["--eval"], True), (["--eval", "False"], False), (["--eval=True"], True), (["--eval", "0"], False)],
)
def test_flag_values(arguments: list[str], value: bool) -> None:
    parser = ArgsParser()
    parser.add_flag("--eval", help="evaluate")
    assert parser.parse_args(["-c", "a.yml", *arguments]).eval is value


def test_bad_flag_value() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="maybe"):
        str2bool("maybe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "-c/--config"), (["-c", "a.yml", "--evaal"], "--evaal"), (["-c", "a.yml", "--eval", "maybe"], "maybe")],
)
def test_wrong_command_line_is_a_user_error(arguments: list[str], message: str) -> None:
    parser = ArgsParser(prog="train.py")
    parser.add_flag("--eval")
    with pytest.raises(UserError, match=f"{message}.*see train.py --help"):
        parser.parse_args(arguments)


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "output"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("no image 'a.jpg';\n check it")), 1, "error: no image 'a.jpg'; check it\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (
            raising(ModuleNotFoundError("No module named 'paddle'", name="paddle")),
            1,
            "error: PaddlePaddle is not installed; run: pip install -r requirements-cpu.txt "
            "(GPU: requirements-gpu.txt)\n",
        ),
    ],
)
def test_how_a_tool_ends(main, status: int, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main_guard(main)
    assert caught.value.code == status
    assert capsys.readouterr().err == output


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main_guard(lambda: 1 / 0)
    with pytest.raises(ModuleNotFoundError, match="cv3"):
        main_guard(raising(ModuleNotFoundError("No module named 'cv3'", name="cv3")))


def test_whole_process_prints_one_line(tmp_path: Path, repo_root: Path) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text(
        "from ppdet.utils.cli import ArgsParser, main_guard\n"
        "def main():\n    print(ArgsParser().parse_args().opt)\n"
        "main_guard(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    run = subprocess.run(
        [sys.executable, str(tool), "-c", "a.yml", "-o", "epoch"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr == "error: -o takes KEY=VALUE (quote values that contain spaces), got 'epoch'\n"
