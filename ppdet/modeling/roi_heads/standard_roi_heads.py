"""One stage of boxes, and masks on the same RoIs: Faster R-CNN (1506.01497) and Mask R-CNN (1703.06870).

Symbols: B images, N proposals per image, K object classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from ppdet.modeling.roi_heads.parts import BoxBranch
from ppdet.modeling.roi_heads.roi_heads import RoIHeads
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, flat_rois

__all__ = ["StandardRoIHeads"]


class StandardRoIHeads(RoIHeads[BoxBranch]):
    """Box and mask branch, both trained on the RoIs sampled from the proposals.

    For arguments and methods see :class:`~ppdet.modeling.roi_heads.roi_heads.RoIHeads`.
    """

    def loss(
        self, pyramid: Sequence[Tensor], proposals: Proposals, im_shape: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """See the base class; ``loss_bbox_cls``, ``loss_bbox_reg`` and, with a mask branch, ``loss_mask``."""
        features, losses = self.training_maps(pyramid, targets)
        rois = self.bbox_head.bbox_assigner(proposals, targets)
        logits, deltas = self.bbox_head(self.box_features(features, *flat_rois(rois.boxes)))
        losses.update(self.bbox_head.loss(logits, deltas, rois, targets))
        if self.mask_head is not None:
            losses["loss_mask"] = self.mask_loss(features, rois, targets)
        return losses

    def predict(self, features: Features, proposals: Proposals, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        logits, deltas = self.bbox_head(self.box_features(features, *flat_rois(proposals.boxes)))
        return self.bbox_head.decode(proposals.boxes, logits, deltas, im_shape)
