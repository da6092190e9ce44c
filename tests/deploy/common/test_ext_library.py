"""The library of the C++ extension: which copy is loaded, and what is said where none fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paddle", reason="PaddlePaddle is not installed")

from deploy.common import ext_library
from deploy.common.errors import UserError
from deploy.common.ext_library import Build, register
from deploy.common.printable import LONGEST_MESSAGE

HERE = Build("3.3.1", "3.11", "linux-x86_64", ("avx2", "fma"))


@pytest.fixture(autouse=True)
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine and a folder without a checkout of the project."""
    monkeypatch.setattr(ext_library, "_registered", False)
    monkeypatch.setattr(ext_library, "_HOME", tmp_path / "nowhere")
    monkeypatch.setattr(Build, "current", lambda: HERE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "htc_ext.so").write_bytes(b"code")
    return tmp_path / "htc_ext.so"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paddle": "2.6.2"}, "was built for Paddle 2.6.2, this is Paddle 3.3.1: export again"),
        ({"python": "3.9"}, "was built for Python 3.9, this is Python 3.11: export again"),
        ({"platform": "linux-aarch64"}, "was built for linux-aarch64, this is linux-x86_64: export again"),
        ({"processor": ["avx2", "avx512f", "fma"]}, "was built for a processor with avx512f, which this one lacks"),
    ],
)
def test_a_copy_for_another_machine(copy: Path, change: dict[str, Any], message: str) -> None:
    build = Build.from_config({**HERE.to_config(), **change}, "infer_cfg.yml")
    with pytest.raises(UserError, match=message) as caught:
        register(exported=copy, build=build)
    text = str(caught.value)
    assert text.startswith(str(copy)) and "use_ext_op" in text and "python -m ppdet.ext_op" in text
    assert "\n" not in text and len(text) < LONGEST_MESSAGE


def test_a_damaged_copy_is_one_line(copy: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load the extension .*htc_ext\.so: ") as caught:
        register(exported=copy, build=HERE)
    assert "\n" not in str(caught.value)


def test_which_library_is_loaded(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.so"
    own.write_bytes(b"code")
    other = Build("2.6.2", "3.11", "linux-x86_64")
    with pytest.raises(UserError, match="was not built; build it for this machine"):
        ext_library._choose(None, None)
    assert ext_library._choose(copy, HERE) == copy
    monkeypatch.setattr(ext_library, "library", lambda: own)
    assert ext_library._choose(copy, HERE) == copy, "the export's own library comes first"
    assert ext_library._choose(copy, other) == ext_library._choose(copy, None) == own
    assert ext_library._choose(tmp_path / "none.so", HERE) == own


def test_a_processor_that_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ext_library, "_CPUINFO", tmp_path / "none")
    assert ext_library._instruction_sets() == ()
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu avx2 sse2 fma avx512f\nbugs: avx9\n")
    monkeypatch.setattr(ext_library, "_CPUINFO", tmp_path / "cpuinfo")
    assert ext_library._instruction_sets() == ("avx2", "avx512f", "fma")
    monkeypatch.setattr(Build, "current", lambda: Build("3.3.1", "3.11", "linux-x86_64"))
    assert HERE.mismatch() is None


@pytest.mark.parametrize(
    "record",
    [True, "3.3.1", [], {}, {**HERE.to_config(), "paddle": 3.3}, {**HERE.to_config(), "processor": "avx2"}],
)
def test_a_damaged_record(record: Any) -> None:
    with pytest.raises(UserError, match=r"infer_cfg\.yml: export\.extension_build is .*: export again"):
        Build.from_config(record, "infer_cfg.yml")


def test_the_record_is_read_as_it_was_written() -> None:
    assert Build.from_config(HERE.to_config(), "infer_cfg.yml") == HERE
