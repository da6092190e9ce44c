"""Control characters from files are escaped before they are printed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from deploy.common.command_line import main_guard
from deploy.common.errors import UserError
from deploy.common.printable import PrintableFormatter, one_line, printable, shortened
from deploy.common.progress import print_lines
from ppdet.utils.logger import add_log_file, setup_logger

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\u202ecod.exe", "a\\u202ecod.exe"),
        ("half \ud800", "half \\ud800"),
        ("file\udcff.jpg", "file\\udcff.jpg"),
        ("\x9b2J", "\\x9b2J"),
        ("a\x00b\x7f", "a\\x00b\\x7f"),
        ("line\u2028line", "line\\u2028line"),
        ("汽车\u3000行人", "汽车\u3000行人"),
        ("👩\u200d🚀 naïve Größe ①", "👩\u200d🚀 naïve Größe ①"),
        ("عربي", "عربي"),
    ],
)
def test_commands_are_escaped_and_letters_stay(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_one_line_keeps_the_culprit_and_the_remedy() -> None:
    line = one_line(f"big.yml: the key '{'k' * 10_000_000}' is\n  unknown;\tremove it", 200)
    assert len(line) <= 200
    assert line.startswith("big.yml: the key 'kkk") and " … " in line and line.endswith("is unknown; remove it")
    assert shortened("abc", 3) == "abc" and one_line(" a \r\n b ") == "a b"


def test_errors_of_tools(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("x.yml: \x1b]0;title\x07\nerror: forged \ud800" + "x" * 5000)

    with pytest.raises(SystemExit) as ended:
        main_guard(main)
    printed = capsys.readouterr().err
    assert ended.value.code == 1
    assert printed.startswith("error: x.yml: \\x1b]0;title\\x07 error: forged \\ud800xxx")
    assert len(printed) < 700 and printed.count("\n") == 1


def test_log_records_cannot_be_forged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_log_file(tmp_path / "train.log")
    setup_logger("ppdet.x").warning("class %s", "\x1b[2J猫\n[01/01 00:00:00] ppdet INFO: AP 1.000\r" + "x" * 200_000)
    for text in (capsys.readouterr().out, (tmp_path / "train.log").read_text(encoding="utf-8")):
        first, second = text.splitlines()
        assert first.endswith("WARNING: class \\x1b[2J猫")
        assert second.startswith("  [01/01 00:00:00] ppdet INFO: AP 1.000\\r")
        assert len(second) < 110_000


def test_a_log_line_for_a_terminal_without_chinese(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        setup_logger("ppdet.x").info("Katze 猫 é")
    assert (tmp_path / "out").read_bytes().endswith("] Katze \\u732b é\n".encode("latin-1"))


def test_progress_and_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines("a\x1b[1mb\nc")
    assert capsys.readouterr().out == "a\\x1b[1mb\nc\n"
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s\t%d", ("\x08",), None)
    record.args = ("\x08", 3)
    assert PrintableFormatter("%(message)s").format(record) == "\\x08\t3"
