"""A one-stage detector with an input of its own: the worked example of docs/extending.md.

Every cell of a feature map may hold the centre of one object (CenterNet, 1904.07850) and predicts its box; a mask is a
sum of prototypes, weighted by the coefficients of the object (YOLACT, 1904.02689). The input ``prompt`` selects the
classes to look for.

Symbols: B images, G ground-truth slots, K classes, C prototypes, D detections of an image, h x w the feature map.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import ClassCount, PositiveInt
from ppdet.core.workspace import register, serializable
from ppdet.data.source.coco import COCODataSet
from ppdet.data.source.image_folder import ImageFolder
from ppdet.modeling.architectures.architecture import IMAGE_FIELDS, Architecture, InputField
from ppdet.structures.batch import Batch
from ppdet.structures.fields import ImageField
from ppdet.structures.predictions import Predictions
from ppdet.structures.sample import Sample


@register
@serializable
class PromptedDataSet(COCODataSet):
    """COCO annotations, with a prompt for all classes."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.extra["prompt"] = ImageField(np.ones(len(self.category_ids), np.float32))
        return sample


@register
@serializable
class PromptedFolder(ImageFolder):
    """Image files, with a prompt for all classes."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.extra["prompt"] = ImageField(np.ones(len(self.category_ids), np.float32))
        return sample


@register
class PromptedDetector(Architecture):
    """Object centres, boxes and prototype masks on one feature map.

    Args:
        backbone: [B, 3, H, W] -> a list of feature maps, of which the first is used.
        num_classes: K.
        width: channels of the hidden layer.
        prototypes: C.
        detections: D, the number of detections of every image.
    """

    __inject__ = {"backbone": "ResNet"}
    __shared__ = ["num_classes"]

    mask_frame = "image"
    input_fields = (IMAGE_FIELDS[0], IMAGE_FIELDS[2], InputField("prompt", ("B", None)))  # im_shape is not needed
    training_fields = {"boxes": "", "masks": ""}

    def __init__(
        self,
        backbone: nn.Layer,
        *,
        num_classes: ClassCount = 80,
        width: PositiveInt = 32,
        prototypes: PositiveInt = 8,
        detections: PositiveInt = 20,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.detections = detections
        channels, self.stride = backbone.out_shape[0].channels, backbone.out_shape[0].stride
        self.hidden = nn.Sequential(nn.Conv2D(channels, width, 3, padding=1), nn.ReLU())
        rare = paddle.ParamAttr(initializer=nn.initializer.Constant(-3.0))
        self.centers = nn.Conv2D(width, num_classes, 1, bias_attr=rare)
        self.sides = nn.Conv2D(width, 4, 1)
        self.coefficients = nn.Conv2D(width, prototypes, 1)
        self.prototypes = nn.Conv2D(width, prototypes, 1)

    def _maps(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centre logits [B, K, h, w], boxes [B, 4, h * w] in input pixels, coefficients, prototypes [B, C, h * w]."""
        x = self.hidden(self.backbone(batch.image)[0])
        logits = self.centers(x) + 20.0 * (batch.extra["prompt"] - 1.0).unsqueeze(-1).unsqueeze(-1)
        ones = paddle.ones_like(x[:, :1])
        center = (paddle.concat([ones.cumsum(axis=3), ones.cumsum(axis=2)], axis=1) - 0.5) * self.stride
        sides = F.softplus(self.sides(x)) * self.stride
        boxes = paddle.concat([center - sides[:, :2], center + sides[:, 2:]], axis=1)
        return logits, boxes.flatten(2), self.coefficients(x).flatten(2), self.prototypes(x).flatten(2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of centres and masks, L1 distance of boxes, each divided by the number of objects."""
        targets = batch.targets
        assert targets is not None and targets.masks is not None
        logits, boxes, coefficients, prototypes = self._maps(batch)
        height, width = logits.shape[2:]
        valid = targets.valid.astype("float32")
        column = ((targets.boxes[..., 0] + targets.boxes[..., 2]) / 2 / self.stride).floor().clip(0, width - 1)
        row = ((targets.boxes[..., 1] + targets.boxes[..., 3]) / 2 / self.stride).floor().clip(0, height - 1)
        cell = F.one_hot((row * width + column).astype("int64"), height * width) * valid.unsqueeze(-1)  # [B, G, h * w]
        classes = F.one_hot(targets.classes, self.num_classes)  # [B, G, K]
        heat = paddle.bmm(classes.transpose([0, 2, 1]), cell).clip(max=1.0)
        at_cell = cell.transpose([0, 2, 1])
        count = valid.sum().clip(min=1.0)
        center = F.binary_cross_entropy_with_logits(logits.flatten(2), heat, reduction="sum") / count
        distance = (paddle.bmm(boxes, at_cell).transpose([0, 2, 1]) - targets.boxes).abs().mean(axis=-1) / self.stride
        masks = paddle.bmm(paddle.bmm(coefficients, at_cell).transpose([0, 2, 1]), prototypes)  # [B, G, h * w]
        expected = F.avg_pool2d(targets.masks.astype("float32"), self.stride, self.stride).flatten(2)
        error = F.binary_cross_entropy_with_logits(masks, expected, reduction="none").mean(axis=-1)
        losses = {
            "loss_center": center,
            "loss_box": (distance * valid).sum() / count,
            "loss_mask": (error * valid).sum() / count,
        }
        return {**losses, "loss": sum(losses.values())}

    def predict(self, batch: Batch) -> Predictions:
        """Take the D best local maxima of the centre scores as detections."""
        logits, boxes, coefficients, prototypes = self._maps(batch)
        score = F.sigmoid(logits)
        peaks = (score * (score == F.max_pool2d(score, 3, 1, 1)).astype("float32")).flatten(1)
        scores, index = paddle.topk(peaks, self.detections)
        cells = boxes.shape[2]
        cell = (index % cells).unsqueeze(1)  # [B, 1, D]
        boxes = paddle.take_along_axis(boxes, cell.expand([-1, 4, -1]), axis=2).transpose([0, 2, 1])
        chosen = paddle.take_along_axis(coefficients, cell.expand([-1, coefficients.shape[1], -1]), axis=2)
        masks = F.sigmoid(paddle.bmm(chosen.transpose([0, 2, 1]), prototypes))  # [B, D, h * w]
        scale = batch.scale_factor
        by_corner = paddle.concat([scale.flip(1), scale.flip(1)], axis=1).unsqueeze(1)
        return Predictions(
            scores=scores.flatten(),
            labels=(index // cells).flatten(),
            counts=paddle.full_like(scores[:, 0], self.detections).astype("int32"),
            boxes=(boxes / by_corner).reshape([-1, 4]),
            masks=masks.reshape([-1, *logits.shape[2:]]),
            mask_frame="image",
            mask_extent=batch.padded_extent(),
        )
