"""Command lines that are wrong."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Bench

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.parametrize("tool", ["train", "eval", "infer", "export_model"])
def test_a_missing_configuration_is_named(bench: Bench, tool: str) -> None:
    bench.refused(tool, config=bench.folder / "nowhere.yml", names="nowhere.yml")


@pytest.mark.parametrize("tool", ["train", "eval", "infer", "export_model"])
def test_an_unknown_key_is_named(bench: Bench, tool: str) -> None:
    bench.refused(tool, "-o", "RezNet.depth=50", names=("RezNet", "ResNet"))
