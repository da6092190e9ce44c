"""Runs the command line tools inside this process, on inputs that are wrong on purpose."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import SMALL

LONGEST_MESSAGE = 700
"""Characters of an error message that a reader still reads."""


@dataclass(frozen=True)
class Outcome:
    """What a tool did: its exit status and everything it printed."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The tool's error message, without ``error: ``; empty if it succeeded."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return lines[-1][len("error: ") :] if lines else ""


@dataclass
class Bench:
    """A small data set, a small model, and the tools.

    Attributes:
        folder: working folder of this test, empty at first.
        data: demo data set of a few pictures (``annotations/``, ``train/``, ``val/``); shared, do not change it.
        config: configuration of a model of a few channels that trains on ``data``.
    """

    folder: Path
    data: Path
    config: Path
    _read: Callable[[], Any]
    _monkeypatch: pytest.MonkeyPatch

    def run(self, tool: str, *arguments: str, config: Path | str | None = None) -> Outcome:
        """Run ``tools/<tool>.py`` with ``-c`` and the given arguments; a traceback fails the test."""
        module = importlib.import_module(tool)
        guard = importlib.import_module("deploy.common.command_line").main_guard
        self._monkeypatch.chdir(self.folder)
        self._monkeypatch.setattr(sys, "argv", [f"{tool}.py", "-c", str(config or self.config), *map(str, arguments)])
        self._read()
        with pytest.raises(SystemExit) as ended:
            guard(module.main)
        printed = self._read()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    def refused(self, tool: str, *arguments: str, names: str | tuple[str, ...] = (), **kwargs: Any) -> str:
        """Run a tool that has to refuse with one readable line; return that line.

        Args:
            tool: name of the tool.
            *arguments: of its command line.
            names: texts which the message must contain: the culprit and the remedy.
            **kwargs: as for ``run``.
        """
        outcome = self.run(tool, *arguments, **kwargs)
        message = outcome.error
        assert outcome.status == 1 and message, f"not refused (status {outcome.status}): {outcome.err[-2000:]}"
        assert len(message) <= LONGEST_MESSAGE, message
        assert "Traceback" not in outcome.err
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", message), repr(message)
        for text in (names,) if isinstance(names, str) else names:
            assert text in message, f"'{text}' is not in: {message}"
        return message

    def accepted(self, tool: str, *arguments: str, **kwargs: Any) -> Outcome:
        """Run a tool that has to succeed."""
        outcome = self.run(tool, *arguments, **kwargs)
        assert outcome.status == 0, outcome.err[-3000:]
        return outcome

    def annotations(self, split: str = "train") -> dict[str, Any]:
        """Return a fresh copy of the data set's annotations, to be spoilt."""
        content: dict[str, Any] = json.loads((self.data / "annotations" / f"instances_{split}.json").read_text())
        return content

    def write(self, name: str, content: Any) -> Path:
        """Write a file into the working folder: bytes and text as they are, anything else as JSON."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def hostile_data(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo data set of four training and three validation pictures."""
    folder = tmp_path_factory.mktemp("hostile") / "data"
    generator = str(repo_root / "dataset" / "demo" / "make_demo.py")
    sizes = ["--train", "4", "--val", "3", "--size", "112"]
    subprocess.run([sys.executable, generator, "--output", str(folder), *sizes], check=True, timeout=120)
    return folder


@pytest.fixture
def bench(
    repo_root: Path,
    hostile_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    """See `Bench`."""
    monkeypatch.syspath_prepend(str(repo_root / "tools"))
    config = tmp_path / "small.yml"
    # The data lie beside the session's folder, everything that a tool writes in the test's own.
    text = SMALL.format(root=repo_root, folder=tmp_path).replace(f"{tmp_path}/data", str(hostile_data))
    config.write_text(text, encoding="utf-8")
    return Bench(tmp_path, hostile_data, config, capsys.readouterr, monkeypatch)
