"""Box branches of a cascade (Cascade R-CNN, 1906.09756).

Symbols: B images, N boxes per image, S slots for sampled RoIs per image, R RoIs of the whole batch, K object classes,
T stages, C channels and s side of a RoI feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import paddle
from paddle import Tensor, nn

from ppdet.core.config.ranges import BoxWeights, ClassCount, Length, NonNegative, OneOf, StageCount
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.bbox_outputs import (
    bbox_losses,
    build_box_parts,
    decode_all_classes,
    deltas_of_label,
    output_layer,
)
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.cascade_roi_heads import CascadeRoIHeads
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs

__all__ = ["CascadeHead", "Stds", "Weights"]

Stds = Annotated[Sequence[BoxWeights], Length(1, 16)]
"""Four divisors of box deltas for each stage."""
Weights = Annotated[Sequence[NonNegative], Length(1, 16)]
"""A loss weight for each stage."""


def _require_entries(per_stage: Mapping[str, Sequence[Any]], stages: int) -> None:
    """Check that every list has an entry for each stage; the message names all lists that are too short.

    Args:
        per_stage: the lists by the names of their parameters.
        stages: T.

    Raises:
        ParameterError: at least one list is too short.
    """
    short = [name for name, values in per_stage.items() if len(values) < stages]
    if short:
        lists = " and ".join(f"{{{index + 1}}} ({len(per_stage[name])})" for index, name in enumerate(short))
        raise ParameterError(
            "{0} is {stages}, but too few entries are in " + lists + ": give at least {stages} to each",
            "num_cascade_stages",
            *short,
            stages=stages,
        )


@register
class CascadeHead(nn.Layer):
    """Class logits and box deltas of each stage; every stage refines the boxes of the stage before.

    Args:
        head: the fully connected layers of all stages.
        roi_extractor: pools the RoI features.
        bbox_assigner: samples the RoIs of a stage.
        num_classes: K.
        num_cascade_stages: T.
        bbox_stds: divisors of the regression targets, four for each stage.
        stage_loss_weights: weight of all losses of a stage.
        reg_class_agnostic: predict the same four deltas for all classes.
        score_average: what is averaged over the stages in prediction, ``logits`` (the authors) or ``probabilities``
            (PaddleDetection).
        keep_gt: ground truth that a stage sampled is refined like any other box and passed on to the next stage
            (PaddleDetection).
        smooth_l1_beta: beta of the box losses; 1 in the authors' code, 0 (L1) in PaddleDetection's.

    Raises:
        ParameterError: a list has fewer entries than there are stages, or ``head`` another number of stages.
    """

    __shared__ = ["num_classes", "num_cascade_stages"]
    __inject__ = {"head": "CascadeTwoFCHead", "roi_extractor": "RoIAlign", "bbox_assigner": "BBoxAssigner"}

    roi_heads_class: ClassVar[type[CascadeRoIHeads]] = CascadeRoIHeads
    """Runs the stages of this head, together with a mask head."""

    def __init__(
        self,
        *,
        head: nn.LayerList,
        roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: ClassCount = 80,
        num_cascade_stages: StageCount = 3,
        bbox_stds: Stds = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
        stage_loss_weights: Weights = (1.0, 0.5, 0.25),
        reg_class_agnostic: bool = True,
        score_average: Annotated[str, OneOf("logits", "probabilities")] = "logits",
        keep_gt: bool = False,
        smooth_l1_beta: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        per_stage: dict[str, Sequence[Any]] = {
            "bbox_assigner.cascade_iou": bbox_assigner.cascade_iou,
            "bbox_stds": bbox_stds,
            "stage_loss_weights": stage_loss_weights,
        }
        if not isinstance(bbox_assigner.add_gt, bool):
            per_stage["bbox_assigner.add_gt"] = bbox_assigner.add_gt
        _require_entries(per_stage, num_cascade_stages)
        if len(head) != num_cascade_stages:
            raise ParameterError(
                "{0} is {layers}, but {1} is {stages}: every stage needs its layers",
                "head.num_cascade_stages",
                "num_cascade_stages",
                layers=len(head),
                stages=num_cascade_stages,
            )
        self.head = head
        self.roi_extractor = roi_extractor
        self.bbox_assigner = bbox_assigner
        self.num_classes = num_classes
        self.num_stages = num_cascade_stages
        self.bbox_stds = [tuple(float(v) for v in stds) for stds in bbox_stds]
        self.stage_loss_weights = [float(w) for w in stage_loss_weights[:num_cascade_stages]]
        self.score_average = score_average
        self.keep_gt = keep_gt
        self.smooth_l1_beta = smooth_l1_beta
        outputs = 4 if reg_class_agnostic else 4 * num_classes
        width = head.out_channel
        for stage in range(num_cascade_stages):
            self.add_sublayer(f"bbox_score_stage{stage}", output_layer(width, num_classes + 1, 0.01))
            self.add_sublayer(f"bbox_delta_stage{stage}", output_layer(width, outputs, 0.001))

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """See :func:`~ppdet.modeling.heads.bbox_outputs.build_box_parts`."""
        return build_box_parts(cfg, input_shape)

    def forward(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Map RoI features [R, C, s, s] to logits [R, K + 1] and deltas [R, 4] or [R, 4 K] of one stage."""
        x = self.head[stage](x)
        return getattr(self, f"bbox_score_stage{stage}")(x), getattr(self, f"bbox_delta_stage{stage}")(x)

    def loss(
        self, logits: Tensor, deltas: Tensor, rois: SampledRoIs, targets: Targets, stage: int
    ) -> dict[str, Tensor]:
        """Compute the weighted box losses of one stage, named ``loss_bbox_cls_stage0`` and so on.

        Args:
            logits: [B * S, K + 1].
            deltas: [B * S, 4] or [B * S, 4 K].
            rois: the RoIs that the stage sampled.
            targets: ground truth.
            stage: index of the stage.
        """
        classification, regression = bbox_losses(
            logits, deltas, rois, targets, self.bbox_stds[stage], self.num_classes, self.smooth_l1_beta
        )
        weight = self.stage_loss_weights[stage]
        return {
            f"loss_bbox_cls_stage{stage}": weight * classification,
            f"loss_bbox_reg_stage{stage}": weight * regression,
        }

    @paddle.no_grad()
    def refine(self, rois: SampledRoIs, logits: Tensor, deltas: Tensor, im_shape: Tensor, stage: int) -> Proposals:
        """Turn the RoIs of a training stage into the candidates of the next one.

        Positives move by the deltas of their label, the others by those of the class that scores best. Ground truth
        among the RoIs is left out unless ``keep_gt`` is set.

        Args:
            rois: the RoIs that the stage sampled.
            logits: [B * S, K + 1].
            deltas: [B * S, 4] or [B * S, 4 K].
            im_shape: [B, 2] (h, w) of the unpadded images.
            stage: index of the stage.
        """
        labels = paddle.where(rois.positive.flatten(), rois.labels.flatten(), as_float32(logits)[:, :-1].argmax(axis=1))
        deltas = deltas_of_label(deltas, labels, self.num_classes).reshape(rois.boxes.shape)
        boxes = clip_boxes(decode_boxes(rois.boxes, deltas, self.bbox_stds[stage]), im_shape)
        valid = rois.valid if self.keep_gt else paddle.logical_and(rois.valid, paddle.logical_not(rois.is_gt))
        return Proposals(boxes, valid)

    def decode(self, boxes: Tensor, logits: Tensor, deltas: Tensor, im_shape: Tensor, stage: int) -> Tensor:
        """Refine boxes in prediction.

        Args:
            boxes: [B, N, 4] xyxy in pixels of the network input.
            logits: [B * N, K + 1] float32.
            deltas: [B * N, 4] or [B * N, 4 K].
            im_shape: [B, 2] (h, w) of the unpadded images.
            stage: index of the stage.

        Returns:
            [B, N, 4] clipped to the images, moved by the deltas of the class that scores best; after the last stage
            [B, N, K, 4] if the deltas depend on the class.
        """
        if stage < self.num_stages - 1:
            deltas = deltas_of_label(deltas, logits[:, :-1].argmax(axis=1), self.num_classes)
        return decode_all_classes(boxes, deltas, self.bbox_stds[stage], self.num_classes, im_shape)

    def average(self, logits: Sequence[Tensor]) -> Tensor:
        """Average the stages' logits [R, K + 1] to class probabilities [R, K + 1], see ``score_average``."""
        softmax = nn.functional.softmax
        if self.score_average == "probabilities":
            return paddle.add_n([softmax(stage, axis=-1) for stage in logits]) / float(self.num_stages)
        return softmax(paddle.add_n(list(logits)) / float(self.num_stages), axis=-1)
