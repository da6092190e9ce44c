"""A small model, exported once, and its own detections on a few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import paddle
import pytest

from deploy.python import Predictor
from ppdet.core.workspace import create, load_config
from ppdet.engine.data import predict_loader
from ppdet.engine.evaluator import predict_batch, to_host
from ppdet.export.exporter import export_model

CONFIG = """
_BASE_: ['{root}/configs/demo/htc_r18_demo.yml']
weights: {folder}/weights.pdparams
worker_num: 0
TestDataset: {{dataset_dir: '{folder}', anno_path: names.json}}
ResNet: {{ch_in: 8}}
FPN: {{out_channel: 16}}
HybridTaskCascadeTwoFCHead: {{out_channel: 32}}
HybridTaskMaskFeat: {{num_convs: 1, out_channel: 16}}
FusedSemanticHead: {{num_convs: 1, conv_out_channels: 16}}
RPNHead:
  test_proposal: {{pre_nms_top_n: 50, post_nms_top_n: 10}}
BBoxPostProcess: {{nms: {{score_threshold: 0.5}}}}
TestReader:
  sample_transforms:
  - Decode: {{}}
  - Resize: {{target_size: [64, 96]}}
  - NormalizeImage: {{}}
  - Permute: {{}}
  batch_size: 4
"""
CLASSES = {3: "ant", 5: "bee", 8: "cow", 13: "dog", 21: "eel", 34: "fox"}
"""Category ids that differ from 1, 2, 3."""
SIZES = ((70, 90), (120, 60), (64, 64), (33, 150))
EMPTY = 2
"""The image without any detection above the score threshold of the model."""


class Recorded(NamedTuple):
    """Inputs and outputs of the model for a batch, using the data loader of the project.

    Attributes:
        batch: arrays of the reader.
        outputs: ``bbox``, ``bbox_num`` and ``mask`` of the dygraph model.
    """

    batch: dict[str, Any]
    outputs: dict[str, np.ndarray]


class Exported(NamedTuple):
    """The tiny model.

    Attributes:
        folder: its export.
        pictures: files of the sizes `SIZES`.
        alone: each picture in a batch of its own.
        together: the four in one batch.
    """

    folder: Path
    pictures: list[str]
    alone: list[Recorded]
    together: Recorded


def _draw_pictures(folder: Path) -> list[str]:
    rng = np.random.default_rng(5)
    paths = []
    for place, (height, width) in enumerate(SIZES):
        picture = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        if place == EMPTY:
            picture[:] = 128
        paths.append(str(folder / f"{place}.png"))
        cv2.imwrite(paths[-1], picture)
    return paths


def _record(model: paddle.nn.Layer, loader: Any) -> Recorded:
    (batch,) = loader
    return Recorded(to_host(batch), predict_batch(model, batch))


@pytest.fixture(scope="session")
def exported(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    categories = [{"id": number, "name": name} for number, name in CLASSES.items()]
    (folder / "names.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    pictures = _draw_pictures(folder)
    (folder / "tiny.yml").write_text(CONFIG.format(root=repo_root, folder=folder))
    config = load_config(folder / "tiny.yml")
    paddle.seed(1)
    model = create(config, config.architecture)
    model.eval()
    for stage in range(3):  # so that scores differ between images
        layer = getattr(model.bbox_head, f"bbox_score_stage{stage}")
        layer.weight.set_value(layer.weight * 40.0)
    paddle.save(model.state_dict(), str(folder / "weights.pdparams"))
    alone = [_record(model, predict_loader(config, [path])) for path in pictures]
    together = _record(model, predict_loader(config, pictures))
    return Exported(export_model(config, folder), pictures, alone, together)


@pytest.fixture(scope="session")
def predictor(exported: Exported) -> Predictor:
    """Predictor with oneDNN."""
    return Predictor(exported.folder)
