"""The cascade of box refinement (Cascade R-CNN, 1906.09756), with masks.

Symbols: B images, N proposals per image, K object classes, T stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from paddle import Tensor

from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.parts import CascadeBranch
from ppdet.modeling.roi_heads.roi_heads import RoIHeads
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs, flat_rois

__all__ = ["CascadeRoIHeads"]

Cascade = TypeVar("Cascade", bound=CascadeBranch)


class CascadeRoIHeads(RoIHeads[Cascade]):
    """Stages of box refinement. Masks have a network for each stage (the authors) or one for all (PaddleDetection).

    For arguments and methods see :class:`~ppdet.modeling.roi_heads.roi_heads.RoIHeads`.
    """

    def loss(
        self, pyramid: Sequence[Tensor], proposals: Proposals, im_shape: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """See the base class; ``loss_bbox_cls_stage0`` and so on, ``loss_mask_stage0`` and so on or ``loss_mask``."""
        features, losses = self.training_maps(pyramid, targets)
        head, mask_head, candidates = self.bbox_head, self.mask_head, proposals
        for stage, weight in enumerate(head.stage_loss_weights):
            rois = head.bbox_assigner(candidates, targets, stage)
            logits, deltas = head(self.box_features(features, *flat_rois(rois.boxes)), stage)
            losses.update(head.loss(logits, deltas, rois, targets, stage))
            refined = head.refine(rois, logits, deltas, im_shape, stage)
            if mask_head is not None and mask_head.per_stage:
                mask_rois = self.mask_rois(rois, refined, targets, stage)
                losses[f"loss_mask_stage{stage}"] = weight * self.mask_loss(features, mask_rois, targets, stage)
            elif mask_head is not None and stage == 0:  # one network, trained without the weight of the stage
                losses["loss_mask"] = self.mask_loss(features, rois, targets)
            candidates = refined  # not the RoIs sampled for the masks
        return losses

    def mask_rois(self, rois: SampledRoIs, refined: Proposals, targets: Targets, stage: int) -> SampledRoIs:
        """Choose the RoIs that the mask network of a stage trains on: those of its box branch.

        Args:
            rois: RoIs that the stage sampled for its box branch.
            refined: the same boxes after refinement.
            targets: ground truth.
            stage: index of the stage.
        """
        return rois

    def predict(self, features: Features, proposals: Proposals, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class; boxes are those of the last stage, scores are averaged over all stages."""
        head, boxes, all_logits = self.bbox_head, proposals.boxes, []
        for stage in range(head.num_stages):
            logits, deltas = head(self.box_features(features, *flat_rois(boxes)), stage)
            all_logits.append(as_float32(logits))
            boxes = head.decode(boxes, all_logits[-1], deltas, im_shape, stage)
        probability = head.average(all_logits)
        return boxes, probability.reshape([proposals.boxes.shape[0], -1, head.num_classes + 1])
