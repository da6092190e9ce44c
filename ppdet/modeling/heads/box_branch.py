"""Box branch of one stage, as Faster and Mask R-CNN have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle import Tensor, nn

from ppdet.core.config.ranges import BoxWeights, ClassCount, NonNegative
from ppdet.core.workspace import create, register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.bbox_head import TwoFCHead, bbox_losses, box_outputs
from ppdet.modeling.heads.mask_branch import MaskHead
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.heads.roi_features import FusedRoIFeatures
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, flat_rois

__all__ = ["BBoxHead"]


@register
class BBoxHead(nn.Layer):
    """Class logits and box deltas of RoIs.

    Args:
        head: the fully connected layers.
        roi_extractor: RoI features.
        bbox_assigner: draws the RoIs to train on.
        num_classes: K.
        bbox_stds: divisors of the regression targets.
        bbox_weight: their inverses, PaddleDetection's way to say it; overrides ``bbox_stds``.
        prior_box_var: the same, as ``BBoxPostProcess.decode`` of PaddleDetection's configs has them; overrides both.
        smooth_l1_beta: of the box loss; 0 is the L1 loss of the authors' Mask R-CNN and of PaddleDetection's.
        reg_class_agnostic: four deltas for all classes together.
    """

    __shared__ = ["num_classes"]
    __inject__ = {"head": "TwoFCHead", "roi_extractor": "RoIAlign", "bbox_assigner": "BBoxAssigner"}

    def __init__(
        self,
        head: TwoFCHead,
        roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: ClassCount = 80,
        bbox_stds: BoxWeights = (0.1, 0.1, 0.2, 0.2),
        bbox_weight: BoxWeights | None = None,
        smooth_l1_beta: NonNegative = 0.0,
        reg_class_agnostic: bool = False,
        prior_box_var: BoxWeights | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.bbox_assigner = bbox_assigner
        self.num_classes = num_classes
        weights = bbox_weight if prior_box_var is None else prior_box_var
        stds = bbox_stds if weights is None else [1.0 / weight for weight in weights]
        self.bbox_stds = [tuple(float(std) for std in stds)]
        self.smooth_l1_beta = smooth_l1_beta
        self.roi_features = FusedRoIFeatures(roi_extractor, None)
        self.bbox_score = box_outputs(head.out_channel, num_classes + 1, 0.01)
        self.bbox_delta = box_outputs(head.out_channel, 4 if reg_class_agnostic else 4 * num_classes, 0.001)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Build the parts that depend on the neck's ``out_shape``."""
        if input_shape is None:
            return {}
        extractor = create(cfg["roi_extractor"], input_shape=input_shape)
        head = create(cfg["head"], implied={"in_channel": input_shape[0].channels, "resolution": extractor.resolution})
        return {"roi_extractor": extractor, "head": head}

    def mask_features(self, mask_head: MaskHead) -> FusedRoIFeatures:
        """The extractor of the mask branch."""
        return FusedRoIFeatures(mask_head.roi_extractor, None)

    def forward(self, x: Tensor, stage: int = 0) -> tuple[Tensor, Tensor]:
        """RoI features [R, C, 7, 7] -> logits [R, K + 1], deltas [R, 4] or [R, 4 K]."""
        x = self.head(x)
        return self.bbox_score(x), self.bbox_delta(x)

    def loss(
        self,
        features: Features,
        proposals: Proposals,
        im_shape: Tensor,
        targets: Targets,
        mask_head: MaskHead | None,
    ) -> dict[str, Tensor]:
        """Losses of a batch: ``loss_bbox_cls``, ``loss_bbox_reg`` and, with a mask head, ``loss_mask``."""
        rois = self.bbox_assigner(proposals, targets)
        boxes, number = flat_rois(rois.boxes)
        logits, deltas = self(self.roi_features(features, boxes, number))
        classification, regression = bbox_losses(
            logits, deltas, rois, targets, self.bbox_stds[0], self.num_classes, self.smooth_l1_beta
        )
        losses = {"loss_bbox_cls": classification, "loss_bbox_reg": regression}
        if mask_head is not None:
            positives = rois.positives_only()
            boxes, number = flat_rois(positives.boxes)
            x = self.mask_features(mask_head)(features, boxes, number)
            losses["loss_mask"] = mask_head.loss(x, positives, targets.masks)
        return losses

    def predict(self, features: Features, proposals: Proposals, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] or class by class [B, N, K, 4], clipped, input pixels; probabilities [B, N, K + 1]."""
        boxes = proposals.boxes
        shape = [boxes.shape[0], -1]
        flat, number = flat_rois(boxes)
        logits, deltas = self(self.roi_features(features, flat, number))
        if deltas.shape[1] > 4:
            deltas = deltas.reshape([*shape, self.num_classes, 4])
            boxes = boxes.unsqueeze(2)
        else:
            deltas = deltas.reshape([*shape, 4])
        boxes = clip_boxes(decode_boxes(boxes, deltas, self.bbox_stds[0]), im_shape)
        probability = nn.functional.softmax(as_float32(logits), axis=-1)
        return boxes, probability.reshape([*shape, self.num_classes + 1])
