"""Folders of runs: a second training in the first one's folder, going on with what is not there, names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppdet.core.workspace import load_config
from ppdet.engine.run_name import run_name
from tests.hostile.conftest import Bench

pytestmark = pytest.mark.same_on_every_paddle


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def run(bench: Bench) -> Path:
    """A finished run of one epoch."""
    bench.accepted("train", "-o", "epoch=1")
    return bench.folder / "output" / "small"


def test_an_earlier_run_is_not_touched(bench: Bench, run: Path) -> None:
    before = _contents(run)
    remedies = ("output/small", "-r", "--overwrite", "run_name", "save_dir")
    bench.refused("train", "-o", "LearningRate.base_lr=0.1", names=remedies)
    bench.refused("train", "--overwrite", "-r", names=("--overwrite", "-r"))
    bench.refused("train", "-r", "-o", "epoch=1", names=("nothing left to train", "larger epoch"))
    bench.refused("train", "--overwrite", "-o", "TrainDataset.anno_path=nowhere.json", names="nowhere.json")
    after = _contents(run)
    assert {name: after[name] for name in before if name != "train.log"} == {
        name: content for name, content in before.items() if name != "train.log"
    }
    (run / "mine.txt").write_text("kept")
    bench.accepted("train", "--overwrite", "-o", "epoch=1", "seed=3")
    assert (run / "mine.txt").read_text() == "kept"
    assert load_config(str(run / "config.yml")).seed == 3
    assert "nothing to do" in bench.accepted("train", "-r", "auto", "-o", "epoch=1").out


def test_the_configuration_of_a_run_is_that_run(bench: Bench, run: Path) -> None:
    config = run / "config.yml"
    bench.refused("train", config=config, names=("output/small", "-r", "--overwrite"))
    bench.accepted("train", "-r", "-o", "epoch=2", config=config)
    assert (run / "0.pdopt").exists() is False and (run / "model_final.pdopt").exists()
    assert run_name(load_config(str(config))) == "small"  # an export takes its folder's name from the same function
    assert [path.name for path in (bench.folder / "output").iterdir()] == ["small"]


@pytest.mark.parametrize("name", ["''", "..", "a/b", "/tmp/x", "[a]"])
def test_names(bench: Bench, name: str) -> None:
    bench.refused("train", "-o", f"run_name={name}", names="run_name")
    bench.refused("export_model", "-o", f"run_name={name}", "weights=nowhere", names="run_name")


def test_nothing_to_go_on_from(bench: Bench) -> None:
    bench.refused("train", "-r", names=("no checkpoint to resume from", "output/small"))
    bench.refused("train", "-r", "nowhere/3", names=("nowhere/3", "does not exist"))
    bench.refused("train", "-o", "epoch=-1", names="epoch")
    bench.refused("train", "-o", "epoch=0", names="epoch")


def test_what_is_given_to_resume_from_is_a_checkpoint(bench: Bench, run: Path) -> None:
    bench.refused("train", "-r", str(run), names=("is a folder", "model_final", f"-r {run / 'model_final'}"))
    bench.refused("train", "-r", str(bench.data), names=(str(bench.data), "no checkpoint to resume from"))
    image = bench.data / "train" / "000001.jpg"
    bench.refused("train", "-r", str(image), names=(str(image), "is not a checkpoint", "model_final"))
    elsewhere = ("-o", "run_name=second", "epoch=1")
    bench.accepted("train", *elsewhere)
    other = run.parent / "second" / "model_final"
    bench.refused("train", "-r", str(other), names=(str(other), "holds an earlier run", "-r alone", "run_name"))
    bench.refused("train", "-r", str(run / "99"), names=("99.pdopt does not exist",))
