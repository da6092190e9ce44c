"""Base class of RoI heads.

Symbols: B images, N proposals per image, D detections and R RoIs of the whole batch, K object classes, C channels and s
side of a RoI feature, h x w the size of a mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from paddle import Tensor

from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.parts import MaskBranch, SemanticBranch
from ppdet.modeling.roi_heads.roi_pooler import RoIPooler
from ppdet.structures.batch import Targets
from ppdet.structures.features import Features
from ppdet.structures.proposals import Proposals, SampledRoIs, flat_rois
from ppdet.structures.shapes import positions

__all__ = ["RoIHeads", "maps_in_float32"]

Head = TypeVar("Head", bound=Any)


class RoIHeads(ABC, Generic[Head]):
    """Box head, mask head and semantic branch, and the order in which they run.

    Not a layer: the parts stay sublayers of the detector, whose parameter names do not change with the order.

    All RoI features come from :meth:`box_features` and :meth:`mask_features`. A subclass that changes what RoIs are
    pooled from, or runs shared layers on the pooled features (``res5`` of a C4 model), overrides these two and calls
    ``box_pooler`` and ``mask_pooler``. Methods that run in prediction cannot use ``super()``, which Paddle 2.6 does not
    trace.

    Args:
        bbox_head: box branch.
        mask_head: mask branch, None to predict boxes only.
        semantic_head: semantic branch, None to disable it.
    """

    def __init__(
        self, bbox_head: Head, mask_head: MaskBranch | None = None, semantic_head: SemanticBranch | None = None
    ) -> None:
        self.bbox_head = bbox_head
        self.mask_head = mask_head
        self.semantic_head = semantic_head
        self.box_pooler = RoIPooler(bbox_head.roi_extractor)
        self.mask_pooler = None if mask_head is None else RoIPooler(mask_head.roi_extractor)

    @abstractmethod
    def loss(
        self, pyramid: Sequence[Tensor], proposals: Proposals, im_shape: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Compute the losses of a training step.

        Args:
            pyramid: feature maps, finest first.
            proposals: N candidates per image.
            im_shape: [B, 2] (h, w) of the unpadded images.
            targets: ground truth.

        Returns:
            The weighted losses by name, 0-D each.
        """

    @abstractmethod
    def predict(self, features: Features, proposals: Proposals, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Refine and classify proposals.

        Args:
            features: from :meth:`feature_maps`.
            proposals: N boxes per image.
            im_shape: [B, 2] (h, w) of the unpadded images.

        Returns:
            boxes [B, N, 4], or [B, N, K, 4] if they depend on the class, xyxy in pixels of the network input, clipped
            to the images; class probabilities [B, N, K + 1], background last.
        """

    def predict_masks(self, features: Features, rows: Tensor, counts: Tensor) -> Tensor:
        """Predict the masks of detections.

        Args:
            features: from :meth:`feature_maps`.
            rows: [D + 1, 6] (label, score, x1, y1, x2, y2) in pixels of the network input, image by image, with a spare
                row at the end.
            counts: [B] int32, detections of each image.

        Returns:
            [D + 1, h, w] float32 probabilities in the frame of each box.
        """
        assert self.mask_head is not None
        image = positions(counts)
        spare = (image == image.max()).astype("int32")  # the last image gets the spare row
        x = self.mask_features(features, rows[:, 2:], counts + spare)
        return self.mask_head.predict(x, rows[:, 0].astype("int64"))

    def feature_maps(self, pyramid: Sequence[Tensor]) -> Features:
        """Return the maps that RoIs are pooled from in prediction, in float32: one cast for all poolings."""
        return maps_in_float32(pyramid, None)

    def training_maps(self, pyramid: Sequence[Tensor], targets: Targets) -> tuple[Features, dict[str, Tensor]]:
        """Return the maps that RoIs are pooled from in training, and the loss of the semantic branch by name."""
        if self.semantic_head is None:
            return maps_in_float32(pyramid, None), {}
        output = self.semantic_head(pyramid)
        loss = self.semantic_head.loss(output.logits, targets.semantic)
        # Without fusion nothing reads the feature. DataParallel needs a gradient for every parameter nevertheless.
        loss = loss + 0.0 * as_float32(output.feature).mean()
        return maps_in_float32(pyramid, output.feature), {"loss_semantic": loss}

    def box_features(self, features: Features, boxes: Tensor, rois_num: Tensor) -> Tensor:
        """Pool RoI features for the box branch.

        Args:
            features: the maps.
            boxes: [R, 4] xyxy in pixels of the network input, image by image.
            rois_num: [B] int32, RoIs of each image.

        Returns:
            [R, C, s, s].
        """
        return self.box_pooler(features, boxes, rois_num)

    def mask_features(self, features: Features, boxes: Tensor, rois_num: Tensor) -> Tensor:
        """Pool RoI features for the mask branch; arguments and result as those of :meth:`box_features`."""
        assert self.mask_pooler is not None
        return self.mask_pooler(features, boxes, rois_num)

    def mask_loss(self, features: Features, rois: SampledRoIs, targets: Targets, stage: int = 0) -> Tensor:
        """Compute the loss of the mask branch on the positives among sampled RoIs.

        Args:
            features: from :meth:`training_maps`.
            rois: RoIs that a stage sampled.
            targets: ground truth.
            stage: index of the stage, for a mask branch with a network for each.
        """
        assert self.mask_head is not None and targets.masks is not None
        positives = rois.positives_only()
        x = self.mask_features(features, *flat_rois(positives.boxes))
        return self.mask_head.loss(x, positives, targets.masks, stage)


def maps_in_float32(pyramid: Sequence[Tensor], semantic: Tensor | None) -> Features:
    return Features([as_float32(level) for level in pyramid], None if semantic is None else as_float32(semantic))
