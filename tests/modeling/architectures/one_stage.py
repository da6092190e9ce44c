"""A one-stage model with image-framed masks, masks' scores and an extra input, and data for it: milliseconds a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppdet.core.workspace import Config, load_config, merge_config, register, serializable
from ppdet.data.source import COCODataSet, ImageFolder
from ppdet.modeling.architectures import Architecture, InputField
from ppdet.structures.batch import Batch
from ppdet.structures.fields import ImageField
from ppdet.structures.predictions import Predictions
from ppdet.structures.sample import Sample

STRIDE, DETECTIONS, SIDE = 4, 2, 64
READER = "{sample_transforms: [Decode, Resize: {target_size: [64, 64], keep_ratio: true}, NormalizeImage, Permute], "
YAML = f"""
architecture: OneStageNet
num_classes: 2
epoch: 1
log_iter: 1
seed: 3
worker_num: 0
use_gpu: false
LearningRate: {{base_lr: 0.01}}
OptimizerBuilder: {{optimizer: {{type: SGD}}}}
TrainDataset: !OneStageCOCO
  {{dataset_dir: FOLDER, image_dir: images, anno_path: a.json, data_fields: [gt_bbox, gt_class, gt_poly]}}
EvalDataset: !OneStageCOCO {{dataset_dir: FOLDER, image_dir: images, anno_path: a.json}}
TestDataset: !OneStageFolder {{dataset_dir: FOLDER, anno_path: a.json}}
TrainReader: {READER} batch_size: 2}}
EvalReader: {READER} batch_size: 2}}
TestReader: {READER} batch_size: 2}}
"""


def prompt(image_id: int) -> ImageField:
    """The extra input of an image."""
    return ImageField(np.array([image_id % 2, 1.0], np.float32))


@register
@serializable
class OneStageCOCO(COCODataSet):
    """COCO's annotations and a prompt for each image."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.extra = {**sample.extra, "prompt": prompt(sample.image_id)}
        return sample


@register
@serializable
class OneStageFolder(ImageFolder):
    """Image files and a prompt for each."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.extra = {"prompt": prompt(index)}
        return sample


@register
class OneStageNet(Architecture):
    """Two detections an image, with class maps as masks.

    Args:
        num_classes: K.
    """

    __shared__ = ["num_classes"]

    input_fields = (
        InputField("image", ("B", 3, None, None)),
        InputField("scale_factor", ("B", 2)),
        InputField("prompt", ("B", 2)),
    )
    mask_frame = "image"
    has_mask_scores = True

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.training_fields = {"boxes": "", "masks": ""}
        self.conv = nn.Conv2D(3, 8, STRIDE, STRIDE)
        self.prompt = nn.Linear(2, 8)
        self.maps = nn.Conv2D(8, num_classes, 1)
        self.box = nn.Linear(8, 4)

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the class maps [B, K, h, w], and boxes [B, 4] in 0..1 of the input."""
        given = self.prompt(batch.extra["prompt"]).unsqueeze(-1).unsqueeze(-1)
        features = F.relu(self.conv(batch.image) + given)
        return self.maps(features), F.sigmoid(self.box(features.mean(axis=[2, 3])))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets
        assert targets is not None and targets.masks is not None
        maps, box = self._outputs(batch)
        wanted = F.one_hot(targets.classes, self.num_classes) * targets.valid.astype("float32").unsqueeze(-1)
        masks = targets.masks.astype("float32")[:, :, ::STRIDE, ::STRIDE]
        truth = paddle.einsum("bgk,bghw->bkhw", wanted, masks).clip(max=1.0)
        losses = {
            "loss_mask": F.binary_cross_entropy_with_logits(maps, truth),
            "loss_box": F.l1_loss(box, targets.boxes.mean(axis=1) / SIDE),
        }
        return {**losses, "loss": losses["loss_mask"] + losses["loss_box"]}

    def predict(self, batch: Batch) -> Predictions:
        maps, box = self._outputs(batch)
        masks = F.sigmoid(maps)[:, :DETECTIONS]
        scores = masks.mean(axis=[2, 3])
        size = batch.padded_extent()
        boxes = box.reshape([-1, 2, 2]) * size.flip(axis=1).unsqueeze(1)
        corners = paddle.concat([boxes.min(axis=1), boxes.max(axis=1)], axis=1).unsqueeze(1)
        return Predictions(
            scores=scores.flatten(),
            labels=(paddle.zeros_like(scores).astype("int64") + paddle.arange(DETECTIONS)).flatten(),
            counts=paddle.full_like(scores[:, 0], DETECTIONS).astype("int32"),
            boxes=paddle.concat([corners] * DETECTIONS, axis=1).flatten(0, 1),
            masks=masks.flatten(0, 1),
            mask_frame="image",
            mask_extent=size,
            mask_scores=scores.flatten() * 0.5,
        )


def write_data(folder: Path) -> list[str]:
    """Write two images with two objects each and their annotations; return the images' paths."""
    (folder / "images").mkdir(parents=True)
    images, annotations, paths = [], [], []
    for number, (height, width) in enumerate([(40, 60), (60, 40)], start=1):
        pixels = np.zeros((height, width, 3), np.uint8)
        for category, (x, y, w, h) in enumerate([(4, 4, 16, 20), (22, 20, 12, 14)], start=1):
            pixels[y : y + h, x : x + w, category] = 255
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            box = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [outline], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **box})
        paths.append(str(folder / "images" / f"{number}.png"))
        cv2.imwrite(paths[-1], pixels)
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    categories = [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    return paths


def one_stage_config(folder: Path, **overrides: Any) -> Config:
    """Load a configuration of the model; its data and runs are in ``folder``."""
    path = folder / "one_stage.yml"
    path.write_text(YAML.replace("FOLDER", str(folder)), encoding="utf-8")
    config = load_config(str(path))
    return merge_config({"save_dir": str(folder / "output"), **overrides}, config)
