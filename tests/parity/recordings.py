"""What the official implementation computed, and this project's model with the same weights and input.

Weights go the way of a downloaded checkpoint: official names, the project's converter, the project's loader.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

CONFIGS = {
    "htc_r50_fpn": "configs/htc/htc_r50_fpn_1x_coco.yml",
    "cascade_mask_rcnn_r50_fpn": "configs/cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml",
    "mask_rcnn_r50_fpn": "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml",
}


@dataclass
class Recording:
    """A loaded model, its input, and the numbers to compare with.

    Attributes:
        name: key of ``CONFIGS``.
        model: in eval mode.
        inputs: a training batch, which prediction takes, too.
        golden: the recorded arrays.
        stages: stages of the RoI heads.
    """

    name: str
    model: Any
    inputs: dict[str, paddle.Tensor]
    golden: dict[str, np.ndarray]
    stages: int


def load_module(path: Path) -> ModuleType:
    """Import one of the oracle's scripts."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sampled(values: np.ndarray, count: int) -> np.ndarray:
    """The part of a tensor that a recording keeps."""
    flat = values.ravel()
    return flat if flat.size <= count else flat[np.linspace(0, flat.size - 1, count).astype(int)]


def stacked(arrays: list[np.ndarray], shape: tuple[int, ...], fill: int = 0) -> np.ndarray:
    """Arrays of different sizes in one, ``fill`` where they end."""
    out = np.full((len(arrays), *shape), fill, arrays[0].dtype)
    for place, array in enumerate(arrays):
        out[(place, *(slice(side) for side in array.shape))] = array
    return out


def synthetic_scenes(oracle: Path) -> list[dict[str, np.ndarray]]:
    """Input and ground truth of the synthetic recordings."""
    scene = load_module(oracle / "synthetic.py").scene
    return [scene(7, 224, 320), scene(8, 256, 288)]


def photographed_scenes(golden: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Input and ground truth of the recordings on photographs, which hold them."""
    scenes = []
    for place in (0, 1):
        shape = tuple(int(side) for side in golden[f"gt_masks{place}.shape"])
        bits = np.unpackbits(golden[f"gt_masks{place}"])[: int(np.prod(shape))]
        scenes.append(
            {
                "image": golden[f"resized_bgr{place}"],
                "boxes": golden[f"gt_boxes{place}"].astype(np.float32),
                "labels": golden[f"gt_labels{place}"].astype(np.int64),
                "masks": bits.reshape(shape).astype(np.uint8),
                "semantic": golden[f"gt_semantic{place}"],
            }
        )
    return scenes


def batch_of(scenes: list[dict[str, np.ndarray]], golden: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    """Scenes as one padded batch."""
    size = tuple(int(side) for side in golden["input.shape"][2:])
    objects = max(len(scene["labels"]) for scene in scenes)
    images = [((one["image"][:, :, ::-1].astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1) for one in scenes]
    arrays = {
        "image": stacked(images, (3, *size)),
        "im_shape": np.stack([golden["img_shape0"], golden["img_shape1"]]).astype(np.float32),
        "scale_factor": np.stack([golden["scale_factor0"][::-1], golden["scale_factor1"][::-1]]).astype(np.float32),
        "gt_bbox": stacked([scene["boxes"] for scene in scenes], (objects, 4)),
        "gt_class": stacked([scene["labels"] for scene in scenes], (objects,)),
        "gt_valid": stacked([np.ones_like(scene["labels"]) for scene in scenes], (objects,)),
        "gt_segm": stacked([scene["masks"] for scene in scenes], (objects, *size)),
        "semantic": stacked([scene["semantic"] for scene in scenes], size, 255).astype(np.int64),
    }
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def recorded_losses(golden: dict[str, np.ndarray], stages: int) -> dict[str, float]:
    """Losses of a recording under this project's names."""
    names = {"loss_rpn_cls": "loss_rpn_cls", "loss_rpn_reg": "loss_rpn_bbox", "loss": "total"}
    if "loss/loss_semantic_seg" in golden:
        names["loss_semantic"] = "loss_semantic_seg"
    for stage in range(stages):
        suffix, prefix = (f"_stage{stage}", f"s{stage}.") if stages > 1 else ("", "")
        for own, theirs in (("bbox_cls", "cls"), ("bbox_reg", "bbox"), ("mask", "mask")):
            names[f"loss_{own}{suffix}"] = f"{prefix}loss_{theirs}"
    return {own: float(golden[f"loss/{theirs}"]) for own, theirs in names.items()}
