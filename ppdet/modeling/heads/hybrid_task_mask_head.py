"""Mask branch of HTC with information flow between the stages (1901.07518, section 3.2).

Symbols: B images, G ground-truth slots per image, P slots for positive RoIs per image, N detections and R RoIs of the
whole batch, K object classes, T stages, C channels and s side of a RoI feature; H x W is the padded network input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import ClassCount, StageCount
from ppdet.core.workspace import ParameterError, create, register
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.heads.hybrid_task_mask_feat import HybridTaskMaskFeat
from ppdet.modeling.heads.mask_outputs import mask_loss, require_mask_size
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.proposals import SampledRoIs

__all__ = ["HybridTaskMaskHead"]


@register
class HybridTaskMaskHead(nn.Layer):
    """One mask network per stage; features flow from each network to the next.

    Args:
        head: the networks, one for each stage. A configuration gives one section, from which all are built.
        roi_extractor: pools the RoI features.
        mask_assigner: makes the targets.
        num_classes: K.
        num_cascade_stages: T.
        mask_info_flow: each network also receives the feature of the network before; without it no ``conv_res`` is
            built.
        class_agnostic: predict one map for all classes.

    Raises:
        ParameterError: the number of networks differs from that of the stages, or the targets have another size than
            the maps.
    """

    __shared__ = ["num_classes", "num_cascade_stages"]
    __inject__ = {"head": "HybridTaskMaskFeat", "roi_extractor": "RoIAlign", "mask_assigner": "MaskAssigner"}

    per_stage: ClassVar[bool] = True
    """A cascade trains a different network in each stage."""

    def __init__(
        self,
        *,
        head: Sequence[HybridTaskMaskFeat],
        roi_extractor: RoIAlign,
        mask_assigner: MaskAssigner,
        num_classes: ClassCount = 80,
        num_cascade_stages: StageCount = 3,
        mask_info_flow: bool = True,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        if len(head) != num_cascade_stages:
            raise ParameterError(
                "{0} has {count} networks, but {1} is {stages}: give one for each stage",
                "head",
                "num_cascade_stages",
                count=len(head),
                stages=num_cascade_stages,
            )
        require_mask_size(mask_assigner, roi_extractor)
        self.head = nn.LayerList(head)
        self.roi_extractor = roi_extractor
        self.mask_assigner = mask_assigner
        self.num_classes = num_classes
        self.num_stages = num_cascade_stages
        self.mask_info_flow = mask_info_flow
        self.class_agnostic = class_agnostic

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Build a network for each stage, and the parts that depend on the feature maps.

        Args:
            cfg: the section of the class.
            input_shape: channels and stride of each feature map.
        """
        if isinstance(cfg["head"], (list, tuple)):
            raise ParameterError("{0} takes one class, of which a network is built for each stage, not a list", "head")
        implied: dict[str, Any] = {"num_maps": 1 if cfg["class_agnostic"] else cfg["num_classes"]}
        if input_shape is not None:
            implied["in_channel"] = input_shape[0].channels
        flows = [cfg["mask_info_flow"] and stage > 0 for stage in range(cfg["num_cascade_stages"])]
        head = [create(cfg["head"], implied={**implied, "with_conv_res": flow}) for flow in flows]
        if input_shape is None:
            return {"head": head}
        return {"head": head, "roi_extractor": create(cfg["roi_extractor"], input_shape=input_shape)}

    def stage_features(self, x: Tensor, stages: int) -> list[Tensor]:
        """Compute the features of the first stages on the same RoIs, each from the one before, which is not detached.

        Args:
            x: RoI features [R, C, s, s].
            stages: number of stages.

        Returns:
            ``stages`` features [R, C', s, s]; without information flow each is computed from ``x`` alone.
        """
        features: list[Tensor] = []
        for stage in range(stages):
            previous = features[-1] if features and self.mask_info_flow else None
            features.append(self.head[stage].features(x, previous))
        return features

    def forward(self, x: Tensor, stage: int) -> Tensor:
        """Map RoI features [R, C, s, s] to the mask logits of all classes [R, K or 1, 2 s, 2 s] of one stage."""
        return self.head[stage].logits(self._feature(x, stage))

    def _feature(self, x: Tensor, stage: int) -> Tensor:
        if not self.mask_info_flow:
            return self.head[stage].features(x, None)
        return self.stage_features(x, stage + 1)[-1]

    def loss(self, x: Tensor, rois: SampledRoIs, masks: Tensor, stage: int) -> Tensor:
        """Compute the mean cross-entropy of the map of each positive's class; zero without positives.

        Args:
            x: RoI features [B * P, C, s, s] of the slots in ``rois``.
            rois: P slots per image whose ``valid`` marks positives.
            masks: [B, G, H, W] ground-truth bitmaps.
            stage: index of the network.
        """
        feature = self._feature(x, stage)
        return mask_loss(lambda labels: self.head[stage].logits(feature, labels), rois, masks, self.mask_assigner)

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict mask probabilities, averaged over the stages.

        Args:
            x: RoI features [N, C, s, s].
            labels: [N] int64.

        Returns:
            [N, 2 s, 2 s] float32.
        """
        features = self.stage_features(x, len(self.head))
        logits = [as_float32(head.logits(feature, labels)) for head, feature in zip(self.head, features)]
        return paddle.add_n([F.sigmoid(x) for x in logits]) / float(len(logits))
