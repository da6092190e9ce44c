"""Loading processes, ranks and run folders that get into each other's way."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Bench


@pytest.mark.parametrize("value", ["-1", "nan", "soon"])
def test_patience_that_is_none(bench: Bench, value: str) -> None:
    bench.refused("train", "-o", f"TrainReader.worker_timeout={value}", names="worker_timeout")


def test_broken_image_in_a_worker(bench: Bench) -> None:
    content = bench.annotations()
    for image in content["images"]:
        bench.write(f"train/{image['file_name']}", b"\xff\xd8 no picture")
    bench.write("annotations/instances_train.json", content)
    options = ["worker_num=1", f"TrainDataset.dataset_dir={bench.folder}", "TrainDataset.semantic=null"]
    options += ["HybridTaskCascade.fused_semantic_head=null"]
    bench.refused("train", "-o", *options, names=(str(bench.folder / "train"),))
