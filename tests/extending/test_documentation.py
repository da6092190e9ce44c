"""The code printed in docs/extending.md works as printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.source import _SOURCES, find_source, registered_sources
from ppdet.core.registry import _REGISTRY
from ppdet.core.workspace import create, import_packages, load_config, merge_config
from ppdet.data.collate import PadBatch, collate
from ppdet.structures.batch import Batch

MASK_RCNN = "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml"


@pytest.fixture
def printed(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the Python blocks of the page define."""
    import_packages()
    registered_sources()
    monkeypatch.setattr("ppdet.core.registry._REGISTRY", dict(_REGISTRY))
    monkeypatch.setattr("ppdet.checkpoint.source._SOURCES", dict(_SOURCES))
    text = (repo_root / "docs/extending.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "printed"}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), names)
    yield names


def test_backbone_and_head(printed: dict[str, Any], repo_root: Path) -> None:
    config = load_config(str(repo_root / MASK_RCNN))
    overrides = {
        "MaskRCNN": {"backbone": {"name": "PlainNet", "width": 4}},
        "BBoxHead": {"head": {"name": "PooledHead", "out_channel": 12}},
        "FPN": {"out_channel": 8},
        "MaskFeat": {"num_convs": 1, "out_channel": 8},
        "RPNHead": {"test_proposal": {"pre_nms_top_n": 20, "post_nms_top_n": 5}},
        "num_classes": 3,
    }
    merge_config(overrides, config)
    model = create(config, config.architecture)
    assert [shape.channels for shape in model.backbone.out_shape] == [4, 8, 16, 32]
    assert [shape.stride for shape in model.backbone.out_shape] == [4, 8, 16, 32]
    maps = model.backbone(paddle.zeros([1, 3, 64, 96]))
    assert [x.shape for x in maps] == [[1, 4, 16, 24], [1, 8, 8, 12], [1, 16, 4, 6], [1, 32, 2, 3]]
    assert model.bbox_head.head.layer.weight.shape == [8, 12] and model.bbox_head.bbox_score.weight.shape == [12, 4]
    model.eval()
    with paddle.no_grad():
        detections = model({"image": paddle.ones([1, 3, 64, 96]), "im_shape": paddle.to_tensor([[64.0, 96.0]])})
    assert detections.boxes.shape[1] == 4 and detections.counts.shape == [1]


def test_field(printed: dict[str, Any], squares: Path) -> None:
    dataset = printed["CenterDataSet"](
        dataset_dir=str(squares), image_dir="images", anno_path="annotations.json", data_fields=["gt_bbox", "gt_class"]
    )
    sample = dataset[0]
    sample.image = np.zeros((3, *sample.orig_size), np.float32)
    sample.im_shape = sample.orig_size
    arrays = collate([sample], PadBatch(), training=True)
    batch = Batch.from_inputs({key: paddle.to_tensor(value) for key, value in arrays.items() if key != "im_path"}, True)
    assert batch.targets is not None and batch.extra["month"].numpy().tolist() == [[7.0]]
    boxes, centers = batch.targets.boxes.numpy(), batch.targets.extra["gt_center"].numpy()
    objects = len(sample.boxes)
    assert objects == 2 and centers.shape == (1, 2, 1, 3)
    np.testing.assert_allclose(centers[0, :objects, 0, 0], (boxes[0, :objects, 0] + boxes[0, :objects, 2]) / 2 - 0.5)
    assert (centers[0, :objects, 0, 2] == 2).all()


def test_source(printed: dict[str, Any]) -> None:
    arrays = {
        "module.features.0.weight": np.ones((4, 3, 7, 7), np.float32),
        "module.anchors": np.ones(3, np.float32),
        "module.fc.bias": np.ones(1000, np.float32),
    }
    assert type(find_source(arrays)) is printed["PlainZoo"]
    result = find_source(arrays).convert(arrays)
    assert list(result.arrays) == ["backbone.stages.0.weight"]
    assert result.left == {
        "module.anchors": "anchors, which are computed",
        "module.fc.bias": "the classifier of ImageNet",
    }
