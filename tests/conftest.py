"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# A shell ignores Ctrl-C for what it starts in the background, and every program that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(os.environ.get("HTC_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def all_cores() -> None:
    """Compute on the CPU, on all of its cores, as the tools do."""
    from ppdet.core.config.settings import RuntimeSettings
    from ppdet.engine.device import select_device

    select_device(RuntimeSettings())


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration is loaded when a test starts: those of other tests do not make its calls ambiguous."""
    from ppdet.core.config import current

    monkeypatch.setattr(current, "_loaded", current.LoadedConfigs())


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder of the recorded reference numbers that the project carries."""
    return ROOT / "tests" / "parity" / "oracle"


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    """Folder of 80 real COCO images with annotations; tests that need it skip where it is missing."""
    path = SHARED / "data" / "tiny_coco"
    if not path.is_dir():
        pytest.skip(f"no photographs at {path} (set HTC_SHARED to the folder that holds data/tiny_coco)")
    return path


@pytest.fixture(scope="session")
def built_extension() -> Path:
    """The C++ extension, built; tests that need it skip where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the extension with")
    from deploy.common.ext_library import library
    from ppdet.ext_op import build

    return library() if library().is_file() else build()


@pytest.fixture(scope="session")
def exported_htc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small HTC in eval mode, and the folder it was exported to; shared by all tests, which must not change them."""
    from ppdet.export.exporter import export_model
    from tests.export.test_exporter import small

    folder = tmp_path_factory.mktemp("exported_htc")
    config, model = small("htc", folder)
    return export_model(config, folder), model
