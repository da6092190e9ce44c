"""Make the stand-in model importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fake_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders of the configuration are the stand-in's."""
    import fakes

    from ppdet.engine import data

    monkeypatch.setattr(data, "_load", fakes.load)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here and has its own test."""
    from ppdet.engine.training import scalars

    monkeypatch.setattr(scalars, "draw_curves", lambda path, losses, scores: path.write_bytes(b"picture"))
