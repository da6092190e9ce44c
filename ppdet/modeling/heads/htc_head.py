"""The cascade of HTC: box and mask branches interleaved over the stages (1901.07518, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import paddle
from paddle import Tensor, nn

from ppdet.core.config.ranges import BoxWeights, ClassCount, Length, NonNegative, OneOf, StageCount
from ppdet.core.workspace import ParameterError, create, register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.bbox_head import bbox_losses, box_outputs, deltas_of_label
from ppdet.modeling.heads.mask_branch import MaskHead
from ppdet.modeling.heads.mask_head import HybridTaskMaskHead
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.heads.roi_features import FusedRoIFeatures, require_multiple
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs, flat_rois

__all__ = ["HybridTaskCascadeHead"]


def require_entries(per_stage: Mapping[str, Sequence[Any]], stages: int) -> None:
    """Check that every list has an entry for each stage; the message names all that have not.

    Args:
        per_stage: the lists by the names of their parameters.
        stages: T.

    Raises:
        ParameterError: some are too short.
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
class HybridTaskCascadeHead(nn.Layer):
    """Stages of box refinement, with a mask head that trains on each stage's refined boxes.

    Symbols: B images, S drawn RoIs an image, P slots for positives, K classes, T stages.

    Args:
        head: the fully connected layers of all stages.
        roi_extractor: RoI features of the box branch.
        semantic_roi_extractor: RoI features of the semantic branch, shared by box and mask branch.
        bbox_assigner: draws the RoIs of a stage.
        num_classes: K.
        num_cascade_stages: T.
        bbox_stds: divisors of the regression targets, four for each stage.
        bbox_weight: their inverses, PaddleDetection's way to say it; overrides ``bbox_stds``.
        prior_box_var: the last stage's inverses once more, as ``BBoxPostProcess.decode`` of PaddleDetection's configs
            has them; overrides that stage's.
        stage_loss_weights: weight of all of a stage's losses.
        interleaved: the mask branch of a stage trains on that stage's refined boxes rather than on its input boxes;
            None for what the class does by itself (here it does).
        semantic_fusion: which branches take the semantic feature in, of ``bbox`` and ``mask``; None for what the class
            does by itself (here both).
        reg_class_agnostic: four deltas for all classes together.
        score_average: what is averaged over the stages for a prediction, ``logits`` (the authors) or
            ``probabilities`` (PaddleDetection's cascade).
        keep_gt: ground truth drawn in a stage is refined like any other box and goes on to the next (PaddleDetection).
        smooth_l1_beta: of the box losses; 1 the authors', 0 (L1) PaddleDetection's.
    """

    __shared__ = ["num_classes", "num_cascade_stages"]
    __inject__ = {
        "head": "HybridTaskCascadeTwoFCHead",
        "roi_extractor": "RoIAlign",
        "semantic_roi_extractor": "RoIAlign",
        "bbox_assigner": "BBoxAssigner",
    }

    interleaved_by_default = True
    fusion_by_default: tuple[str, ...] = ("bbox", "mask")

    def __init__(
        self,
        head: nn.LayerList,
        roi_extractor: RoIAlign,
        semantic_roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: ClassCount = 80,
        num_cascade_stages: StageCount = 3,
        bbox_stds: Annotated[Sequence[BoxWeights], Length(1, 16)] = (
            (0.1, 0.1, 0.2, 0.2),
            (0.05, 0.05, 0.1, 0.1),
            (0.033, 0.033, 0.067, 0.067),
        ),
        bbox_weight: Annotated[Sequence[BoxWeights], Length(1, 16)] | None = None,
        stage_loss_weights: Annotated[Sequence[NonNegative], Length(1, 16)] = (1.0, 0.5, 0.25),
        interleaved: bool | None = None,
        semantic_fusion: Sequence[Annotated[str, OneOf("bbox", "mask")]] | None = None,
        reg_class_agnostic: bool = True,
        score_average: Annotated[str, OneOf("logits", "probabilities")] = "logits",
        keep_gt: bool = False,
        smooth_l1_beta: NonNegative = 1.0,
        prior_box_var: BoxWeights | None = None,
    ) -> None:
        super().__init__()
        if semantic_fusion is None:
            semantic_fusion = self.fusion_by_default
        stds_key = "bbox_stds"
        if bbox_weight is not None:
            stds_key, bbox_stds = "bbox_weight", [[1.0 / w for w in weights] for weights in bbox_weight]
        if prior_box_var is not None and len(bbox_stds) >= num_cascade_stages - 1:
            last = [1.0 / w for w in prior_box_var]
            bbox_stds = [*bbox_stds[: num_cascade_stages - 1], last]
        per_stage: dict[str, Sequence[Any]] = {
            "bbox_assigner.cascade_iou": bbox_assigner.cascade_iou,
            stds_key: bbox_stds,
            "stage_loss_weights": stage_loss_weights,
        }
        if not isinstance(bbox_assigner.add_gt, bool):
            per_stage["bbox_assigner.add_gt"] = bbox_assigner.add_gt
        require_entries(per_stage, num_cascade_stages)
        if len(head) != num_cascade_stages:
            raise ParameterError(
                "{0} is {own}, but {1} is {stages}: every stage needs its layers",
                "head.num_cascade_stages",
                "num_cascade_stages",
                own=len(head),
                stages=num_cascade_stages,
            )
        if "bbox" in semantic_fusion:
            require_multiple(semantic_roi_extractor, roi_extractor)
        self.score_average = score_average
        self.keep_gt = keep_gt
        self.smooth_l1_beta = smooth_l1_beta
        self.head = head
        self.bbox_assigner = bbox_assigner
        self.num_classes = num_classes
        self.num_stages = num_cascade_stages
        self.bbox_stds = [tuple(float(v) for v in stds) for stds in bbox_stds]
        self.stage_loss_weights = [float(w) for w in stage_loss_weights]
        self.interleaved = self.interleaved_by_default if interleaved is None else interleaved
        self.fuse_mask = "mask" in semantic_fusion
        self.semantic_roi_extractor = semantic_roi_extractor
        self.roi_features = FusedRoIFeatures(
            roi_extractor, semantic_roi_extractor if "bbox" in semantic_fusion else None
        )
        outputs = 4 if reg_class_agnostic else 4 * num_classes
        width = head.out_channel
        for stage in range(num_cascade_stages):
            self.add_sublayer(f"bbox_score_stage{stage}", box_outputs(width, num_classes + 1, 0.01))
            self.add_sublayer(f"bbox_delta_stage{stage}", box_outputs(width, outputs, 0.001))

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, semantic_stride: int = 8, **_: Any
    ) -> dict[str, Any]:
        """Build the parts that depend on the neck's ``out_shape`` and on the stride of the semantic feature."""
        # the one map of the semantic branch; its channels do not matter to an extractor
        semantic = create(cfg["semantic_roi_extractor"], input_shape=[ShapeSpec(1, semantic_stride)])
        if input_shape is None:
            return {"semantic_roi_extractor": semantic}
        extractor = create(cfg["roi_extractor"], input_shape=input_shape)
        head = create(cfg["head"], implied={"in_channel": input_shape[0].channels, "resolution": extractor.resolution})
        return {"roi_extractor": extractor, "semantic_roi_extractor": semantic, "head": head}

    def mask_features(self, mask_head: HybridTaskMaskHead | MaskHead) -> FusedRoIFeatures:
        """The extractor of the mask branch."""
        return FusedRoIFeatures(mask_head.roi_extractor, self.semantic_roi_extractor if self.fuse_mask else None)

    def forward(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Box branch of one stage: RoI features [R, C, 7, 7] -> logits [R, K + 1], deltas [R, 4] or [R, 4 K]."""
        x = self.head[stage](x)
        return getattr(self, f"bbox_score_stage{stage}")(x), getattr(self, f"bbox_delta_stage{stage}")(x)

    def loss(
        self,
        features: Features,
        proposals: Proposals,
        im_shape: Tensor,
        targets: Targets,
        mask_head: HybridTaskMaskHead | MaskHead | None,
    ) -> dict[str, Tensor]:
        """Train every stage on a batch.

        Args:
            features: pyramid and semantic feature.
            proposals: candidates of the first stage.
            im_shape: [B, 2] (h, w) of the unpadded images.
            targets: ground truth.
            mask_head: a network for each stage, or one for the cascade (trained on the first stage's RoIs, as in
                PaddleDetection), or None for boxes only.

        Returns:
            weighted losses by name, ``loss_bbox_cls_stage0`` and so on.
        """
        losses: dict[str, Tensor] = {}
        candidates = proposals
        for stage, weight in enumerate(self.stage_loss_weights[: self.num_stages]):
            rois = self.bbox_assigner(candidates, targets, stage)
            boxes, number = flat_rois(rois.boxes)
            logits, deltas = self(self.roi_features(features, boxes, number), stage)
            classification, regression = bbox_losses(
                logits, deltas, rois, targets, self.bbox_stds[stage], self.num_classes, self.smooth_l1_beta
            )
            losses[f"loss_bbox_cls_stage{stage}"] = weight * classification
            losses[f"loss_bbox_reg_stage{stage}"] = weight * regression
            refined = self.refine(rois, logits, deltas, im_shape, stage)
            if isinstance(mask_head, HybridTaskMaskHead):
                mask_rois = self.bbox_assigner(refined, targets, stage) if self.interleaved else rois
                mask_rois = mask_rois.positives_only()
                boxes, number = flat_rois(mask_rois.boxes)
                x = self.mask_features(mask_head)(features, boxes, number)
                losses[f"loss_mask_stage{stage}"] = weight * mask_head.loss(x, mask_rois, targets.masks, stage)
            elif isinstance(mask_head, MaskHead) and stage == 0:  # one network, on what the first stage drew
                losses["loss_mask"] = self._single_mask_loss(mask_head, features, rois, targets)
            candidates = refined  # not the boxes drawn for the masks
        return losses

    def _single_mask_loss(self, mask_head: MaskHead, features: Features, rois: SampledRoIs, targets: Targets) -> Tensor:
        """Loss of the one mask network that PaddleDetection's cascade has, not weighted by the stage."""
        positives = rois.positives_only()
        boxes, number = flat_rois(positives.boxes)
        return mask_head.loss(self.mask_features(mask_head)(features, boxes, number), positives, targets.masks)

    @paddle.no_grad()
    def refine(self, rois: SampledRoIs, logits: Tensor, deltas: Tensor, im_shape: Tensor, stage: int) -> Proposals:
        """Move the drawn boxes by their deltas; ground truth among them does not go on to the next stage."""
        labels = paddle.where(rois.positive.flatten(), rois.labels.flatten(), as_float32(logits)[:, :-1].argmax(axis=1))
        own = deltas_of_label(deltas, labels, self.num_classes).reshape(rois.boxes.shape)
        boxes = clip_boxes(decode_boxes(rois.boxes, own, self.bbox_stds[stage]), im_shape)
        going_on = rois.valid if self.keep_gt else paddle.logical_and(rois.valid, paddle.logical_not(rois.is_gt))
        return Proposals(boxes, going_on)

    def predict(self, features: Features, proposals: Proposals, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Run the proposals through all stages.

        Args:
            features: pyramid and semantic feature.
            proposals: N boxes an image.
            im_shape: [B, 2] (h, w).

        Returns:
            boxes of the last stage, [B, N, 4] or class by class [B, N, K, 4], clipped, input pixels;
            class probabilities [B, N, K + 1], the softmax of the mean logits of the stages (``score_average``).
        """
        boxes, all_logits = proposals.boxes, []
        shape = [boxes.shape[0], -1]
        for stage in range(self.num_stages):
            flat, number = flat_rois(boxes)
            logits, deltas = self(self.roi_features(features, flat, number), stage)
            logits = as_float32(logits)
            all_logits.append(logits)
            if deltas.shape[1] > 4 and stage == self.num_stages - 1:
                deltas = deltas.reshape([*shape, self.num_classes, 4])
                boxes = boxes.unsqueeze(2)
            else:
                deltas = deltas_of_label(deltas, logits[:, :-1].argmax(axis=1), self.num_classes)
                deltas = deltas.reshape([*shape, 4])
            boxes = clip_boxes(decode_boxes(boxes, deltas, self.bbox_stds[stage]), im_shape)
        softmax = nn.functional.softmax
        if self.score_average == "probabilities":
            probability = paddle.add_n([softmax(logits, axis=-1) for logits in all_logits]) / float(self.num_stages)
        else:
            probability = softmax(paddle.add_n(all_logits) / float(self.num_stages), axis=-1)
        return boxes, probability.reshape([*shape, self.num_classes + 1])
