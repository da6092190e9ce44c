"""Two runs of one command give the same bytes, whatever number of processes loads the data."""

from __future__ import annotations

import csv

import pytest

from tests.end_to_end.conftest import Workplace

FILES = ("model_final.pdparams", "model_final.safetensors")


def _run(workplace: Workplace, name: str, *options: str) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Train and return the weight files and the losses of every step."""
    folder = workplace.folder / "reproducible" / name
    workplace.tool("train", "--enable_ce", "-o", f"save_dir={folder}", *options)
    run = folder / "small"
    with open(run / "train_scalars.csv", encoding="utf-8") as stream:
        rows = [{key: value for key, value in row.items() if "loss" in key} for row in csv.DictReader(stream)]
    return {file: (run / file).read_bytes() for file in FILES}, rows


@pytest.mark.slow
def test_any_number_of_workers(workplace: Workplace) -> None:
    first, losses = _run(workplace, "w0", "worker_num=0")
    assert len(losses) == 4 and "loss_mask_stage2" in losses[0] and losses[0] != losses[1]
    for workers in (0, 1, 2, 4):
        again, same = _run(workplace, f"again{workers}", f"worker_num={workers}")
        assert same == losses, workers
        assert again == first, workers
    other, different = _run(workplace, "seed", "worker_num=0", "TrainReader.shuffle=false")
    assert other != first and different != losses  # the comparison can tell


@pytest.mark.slow
def test_a_run_is_repeated_from_its_own_folder(workplace: Workplace) -> None:
    """``-c output/…/config.yml`` alone, with the command's seed in it."""
    first, losses = _run(workplace, "original")
    original = workplace.folder / "reproducible" / "original" / "small"
    copied = Workplace(workplace.root, workplace.folder, original / "config.yml")
    written = (original / "config.yml").read_text(encoding="utf-8")
    copied.tool("train", "-o", f"save_dir={workplace.folder / 'reproducible' / 'repeated'}")
    repeated = workplace.folder / "reproducible" / "repeated" / "small"
    assert {file: (repeated / file).read_bytes() for file in FILES} == first
    again = (repeated / "config.yml").read_text(encoding="utf-8")
    assert again == written.replace("reproducible/original", "reproducible/repeated")
