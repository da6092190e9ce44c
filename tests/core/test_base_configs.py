"""The base configurations load, and say what their comments promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppdet.core.workspace import load_config

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.parametrize(
    ("name", "semantic", "labels"),
    [
        ("coco_instance", None, None),
        ("coco_instance_stuff", {"kind": "png", "dir": "stuffthingmaps/train2017", "suffix": ".png"}, 183),
        ("coco_instance_things", {"kind": "instances", "background": "class", "labels": "class"}, 81),
    ],
)
def test_datasets(repo_root: Path, name: str, semantic: object, labels: object) -> None:
    cfg = load_config(str(repo_root / "configs" / "datasets" / f"{name}.yml"))
    assert cfg.get("semantic_num_classes") == labels
    assert cfg.TrainDataset.get("semantic") == semantic
    assert (cfg.TrainDataset.image_dir, cfg.EvalDataset.image_dir) == ("train2017", "val2017")
    assert {cfg[f"{mode}Dataset"].dataset_dir for mode in ("Train", "Eval", "Test")} == {"dataset/coco"}
    assert (cfg.TrainDataset.class_name, cfg.TestDataset.class_name) == ("COCODataSet", "ImageFolder")


def test_runtime(repo_root: Path) -> None:
    cfg = load_config(str(repo_root / "configs" / "runtime.yml"))
    assert (cfg.save_dir, cfg.snapshot_epoch, cfg.use_ema) == ("output", 1, False)
    assert cfg.use_ext_op is False
    assert cfg.export == {"post_process": True, "nms": True, "benchmark": False, "fuse_conv_bn": True}
