"""The demo's HTC and two images for it, without anything random: seconds for a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppdet.core.workspace import create, load_config, merge_config

__all__ = ["small_htc"]


def small_htc(root: Path, **sections: Any) -> tuple[nn.Layer, dict[str, Tensor]]:
    """The demo's HTC and a batch of two images; nothing is drawn at random."""
    paddle.set_device("cpu")
    config = load_config(str(root / "configs/demo/htc_r18_demo.yml"))
    merge_config({"use_gpu": False, **sections}, config)
    paddle.seed(0)
    model = create(config, config.architecture)
    model.rpn_head.rpn_target_assign.use_random = model.bbox_head.bbox_assigner.use_random = False
    model.train()
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 2, 96, 128), np.uint8)
    boxes = np.array([[[8, 8, 60, 50], [70, 20, 120, 90]], [[20, 30, 90, 80], [5, 5, 40, 40]]], np.float32)
    for image, rows in enumerate(boxes.astype(int)):
        for index, (x1, y1, x2, y2) in enumerate(rows):
            masks[image, index, y1:y2, x1:x2] = 1
    batch = {
        "image": rng.normal(size=(2, 3, 96, 128)).astype("float32"),
        "im_shape": np.full((2, 2), [96, 128], np.float32),
        "gt_bbox": boxes,
        "gt_class": np.array([[0, 3], [5, 1]]),
        "gt_segm": masks,
        "semantic": rng.integers(0, 12, (2, 96, 128)).astype("uint8"),
    }
    return model, {name: paddle.to_tensor(value) for name, value in batch.items()}
