"""Mask branch with one network for all RoIs, as in Mask R-CNN (1703.06870, section 3).

Symbols: B images, G ground-truth slots per image, P slots for positive RoIs per image, N detections and R RoIs of the
whole batch, K object classes, C channels and s side of a RoI feature; H x W is the padded network input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import ClassCount
from ppdet.core.workspace import ParameterError, create, register
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.heads.mask_feat import MaskFeat
from ppdet.modeling.heads.mask_outputs import logits_of_label, mask_loss, require_mask_size
from ppdet.modeling.layers import conv_fan_out
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.proposals import SampledRoIs

__all__ = ["MaskHead"]


@register
class MaskHead(nn.Layer):
    """One network for the masks of all RoIs.

    Args:
        head: convolutions and upsampling.
        roi_extractor: pools the RoI features.
        mask_assigner: makes the targets.
        num_classes: K.
        class_agnostic: predict one map for all classes.
        share_bbox_feat: accepted for PaddleDetection's configurations; only false is supported.

    Raises:
        ParameterError: ``share_bbox_feat`` is set, or the targets have another size than the maps.
    """

    __shared__ = ["num_classes"]
    __inject__ = {"head": "MaskFeat", "roi_extractor": "RoIAlign", "mask_assigner": "MaskAssigner"}

    per_stage: ClassVar[bool] = False
    """A cascade trains this network on the RoIs of its first stage."""

    def __init__(
        self,
        *,
        head: MaskFeat,
        roi_extractor: RoIAlign,
        mask_assigner: MaskAssigner,
        num_classes: ClassCount = 80,
        class_agnostic: bool = False,
        share_bbox_feat: bool = False,
    ) -> None:
        super().__init__()
        if share_bbox_feat:
            raise ParameterError(
                "{0} is true, but the mask branch pools its own RoI features: set it to false", "share_bbox_feat"
            )
        require_mask_size(mask_assigner, roi_extractor)
        self.head = head
        self.roi_extractor = roi_extractor
        self.mask_assigner = mask_assigner
        self.num_classes = num_classes
        maps = 1 if class_agnostic else num_classes
        attr = ParamAttr(initializer=conv_fan_out(maps, 1))
        self.mask_fcn_logits = nn.Conv2D(head.out_channel, maps, 1, weight_attr=attr)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Build the parts that depend on the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
        """
        if input_shape is None:
            return {}
        return {
            "head": create(cfg["head"], implied={"in_channel": input_shape[0].channels}),
            "roi_extractor": create(cfg["roi_extractor"], input_shape=input_shape),
        }

    def forward(self, x: Tensor, stage: int = 0) -> Tensor:
        """Map RoI features [R, C, s, s] to the mask logits of all classes [R, K or 1, 2 s, 2 s]."""
        return self.mask_fcn_logits(self.head(x))

    def loss(self, x: Tensor, rois: SampledRoIs, masks: Tensor, stage: int = 0) -> Tensor:
        """Compute the mean cross-entropy of the map of each positive's class; zero without positives.

        Args:
            x: RoI features [B * P, C, s, s] of the slots in ``rois``.
            rois: P slots per image whose ``valid`` marks positives.
            masks: [B, G, H, W] ground-truth bitmaps.
            stage: not used.
        """
        return mask_loss(
            lambda labels: logits_of_label(self.head(x), self.mask_fcn_logits, labels), rois, masks, self.mask_assigner
        )

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict mask probabilities.

        Args:
            x: RoI features [N, C, s, s].
            labels: [N] int64.

        Returns:
            [N, 2 s, 2 s] float32.
        """
        return F.sigmoid(as_float32(logits_of_label(self.head(x), self.mask_fcn_logits, labels)))
