"""The recorded models, and a record of how far this project's numbers are from theirs.

``PARITY_REPORT=FILE pytest tests/parity`` writes the largest difference of each block as a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.convert import convert_state
from ppdet.core.workspace import create, load_config, merge_config
from tests.conftest import SHARED
from tests.parity.recordings import (
    CONFIGS,
    Recording,
    batch_of,
    load_module,
    photographed_scenes,
    synthetic_scenes,
)

Measure = Callable[[str, float, float], None]
"""Takes a block's name, a difference and how large it may be."""

_KINDS = ("synthetic", "photographs")


def _params() -> Iterator[Any]:
    """Photographs repeat with other pictures what synthetic scenes have compared, so one version of Paddle suffices."""
    for name in CONFIGS:
        yield f"{name}-synthetic"
        yield pytest.param(f"{name}-photographs", marks=pytest.mark.same_on_every_paddle)


@pytest.fixture(scope="session", params=list(_params()))
def recording(request: pytest.FixtureRequest, oracle: Path, repo_root: Path) -> Iterator[Recording]:
    """A model with the oracle's weights, converted as a downloaded checkpoint would be."""
    name, kind = request.param.split("-")
    folder = oracle if kind == "synthetic" else SHARED / "oracle"
    file = folder / "golden" / f"{'synthetic_' if kind == 'synthetic' else ''}{name}.npz"
    if not file.is_file():
        pytest.skip(f"no recording on photographs at {file} (set HTC_SHARED to the folder that holds oracle/golden)")
    with np.load(file) as archive:
        golden = dict(archive)
    paddle.set_device("cpu")
    config = load_config(str(repo_root / CONFIGS[name]))
    merge_config({"use_gpu": False, "pretrain_weights": None}, config)
    model = create(config, config.architecture)
    official = load_module(oracle / "weights.py").state_dict(str(oracle / "keys" / f"{name}.tsv"))
    model.set_state_dict(convert_state(model, official).arrays)
    model.eval()
    scenes = synthetic_scenes(oracle) if kind == "synthetic" else photographed_scenes(golden)
    yield Recording(name, model, batch_of(scenes, golden), golden, 1 if name.startswith("mask_rcnn") else 3)


@pytest.fixture(scope="session")
def report() -> Iterator[dict[tuple[str, str], dict[str, tuple[float, float]]]]:
    """Largest difference and tolerance by block and recording; written where the environment asks for it."""
    table: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    yield table
    path = os.environ.get("PARITY_REPORT")
    if path:
        Path(path).write_text(_as_markdown(table), encoding="utf-8")


def _as_markdown(table: dict[tuple[str, str], dict[str, tuple[float, float]]]) -> str:
    lines = []
    for kind in _KINDS:
        names = [name for name in CONFIGS if (name, kind) in table]
        if not names:
            continue
        lines += [f"## {kind.capitalize()}", "", f"| block | {' | '.join(names)} | tolerance |"]
        lines.append("|---" * (len(names) + 2) + "|")
        for block in table[(names[0], kind)]:
            cells = [table[(name, kind)].get(block) for name in names]
            limit = next(cell[1] for cell in cells if cell is not None)
            values = " | ".join("" if cell is None else f"{cell[0]:.1e}" if cell[0] else "0" for cell in cells)
            lines.append(f"| {block} | {values} | {limit:g} |")
        lines.append("")
    return "\n".join(lines)


@pytest.fixture
def measure(request: pytest.FixtureRequest, report: dict[tuple[str, str], dict[str, tuple[float, float]]]) -> Measure:
    """Assert that a difference is within its tolerance, and remember it for the report."""
    name, kind = request.node.callspec.params["recording"].split("-")

    def check(block: str, value: float, tolerance: float) -> None:
        rows = report.setdefault((name, kind), {})
        rows[block] = (max(value, rows.get(block, (0.0, 0.0))[0]), tolerance)
        assert value <= tolerance, f"{block}: {value:.2e} is more than {tolerance:g}"

    return check
