"""Mask branch of HTC with information flow between stages (1901.07518, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, ClassCount, Convolutions, PositiveInt, StageCount
from ppdet.core.workspace import ParameterError, create, register
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.layers import ConvReLU, conv_fan_out
from ppdet.modeling.losses.functional import binary_cross_entropy, safe_ratio
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.proposals import SampledRoIs

__all__ = ["HybridTaskMaskFeat", "HybridTaskMaskHead", "logits_of_label", "mask_loss", "require_mask_size"]


def require_mask_size(mask_assigner: MaskAssigner, roi_extractor: RoIAlign) -> None:
    """Check that the targets of a mask head have the size of its maps, twice that of its RoI features.

    Raises:
        ParameterError: they have not.
    """
    if mask_assigner.mask_resolution != 2 * roi_extractor.resolution:
        raise ParameterError(
            "{0} is {targets}, but {1}, {features}, makes mask maps of {maps}: one must be twice the other",
            "mask_assigner.mask_resolution",
            "roi_extractor.resolution",
            targets=mask_assigner.mask_resolution,
            features=roi_extractor.resolution,
            maps=2 * roi_extractor.resolution,
        )


def logits_of_label(x: Tensor, conv: nn.Conv2D, labels: Tensor) -> Tensor:
    """The map of each RoI's own label out of a 1x1 convolution, a K-th of the work of all maps.

    Args:
        x: [P, C, h, w].
        conv: the convolution to K maps, or to one for all classes.
        labels: [P] int64.

    Returns:
        [P, h, w].
    """
    maps, channels = conv.weight.shape[:2]
    if maps == 1:
        return conv(x).squeeze(1)
    weight = paddle.gather(conv.weight.reshape([maps, channels]), labels)
    bias = paddle.gather(conv.bias, labels)
    height, width = x.shape[2:]
    own = paddle.bmm(weight.unsqueeze(1), x.reshape([-1, channels, height * width]))
    return own.reshape([-1, height, width]) + bias.reshape([-1, 1, 1])


def mask_loss(
    logits_for: Callable[[Tensor], Tensor], rois: SampledRoIs, masks: Tensor, mask_assigner: MaskAssigner
) -> Tensor:
    """Mean cross-entropy of the labelled class's map over the positives' pixels; zero without positives.

    Args:
        logits_for: logits [B * P, 28, 28] for labels [B * P].
        rois: P slots an image whose ``valid`` marks positives.
        masks: [B, G, H, W] ground-truth bitmaps.
        mask_assigner: makes the targets.
    """
    valid = rois.valid.flatten()
    labels = paddle.where(valid, rois.labels.flatten(), paddle.zeros_like(rois.labels.flatten()))
    logits = logits_for(labels)
    target = mask_assigner(rois, masks).reshape(logits.shape)
    per_roi = binary_cross_entropy(logits, target).mean(axis=[1, 2])
    weight = valid.astype("float32")
    return safe_ratio((per_roi * weight).sum(), weight.sum())


@register
class HybridTaskMaskFeat(nn.Layer):
    """Mask network of one stage: convolutions, upsampling, one logit map per class.

    Args:
        in_channel: channels of the RoI feature.
        out_channel: channels of the convolutions.
        num_convs: 3x3 convolutions; without any the RoI feature itself is upsampled.
        num_maps: logit maps; K, or 1 for class-agnostic masks.
        with_conv_res: build the 1x1 convolution that takes in the previous stage's feature (not in the first stage,
            nor without information flow).
    """

    def __init__(
        self,
        in_channel: Channels = 256,
        out_channel: Channels = 256,
        num_convs: Convolutions = 4,
        num_maps: PositiveInt = 80,
        with_conv_res: bool = False,
    ) -> None:
        super().__init__()
        channels = out_channel if num_convs else in_channel
        self.conv_res = ConvReLU(channels, in_channel, 1) if with_conv_res else None
        widths = [in_channel] + [out_channel] * num_convs
        self.convs = nn.LayerList([ConvReLU(widths[i], widths[i + 1], 3) for i in range(num_convs)])
        attr = ParamAttr(initializer=conv_fan_out(out_channel, 2))
        self.upsample = nn.Conv2DTranspose(channels, out_channel, 2, stride=2, weight_attr=attr)
        attr = ParamAttr(initializer=conv_fan_out(num_maps, 1))
        self.conv_logits = nn.Conv2D(out_channel, num_maps, 1, weight_attr=attr)

    def features(self, x: Tensor, previous: Tensor | None) -> Tensor:
        """RoI features [P, C, 14, 14], with the previous stage's feature (or None), -> this stage's feature."""
        if previous is not None and self.conv_res is not None:
            x = x + self.conv_res(previous)
        for conv in self.convs:
            x = conv(x)
        return x

    def logits(self, feature: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mask logits of a stage's feature [P, C, 14, 14].

        Args:
            feature: from :meth:`features`.
            labels: [P] int64; only each RoI's own map is then computed, a K-th of the work.

        Returns:
            [P, maps, 28, 28], or [P, 28, 28] with ``labels``.
        """
        x = F.relu(self.upsample(feature))
        if labels is None:
            return self.conv_logits(x)
        return logits_of_label(x, self.conv_logits, labels)


@register
class HybridTaskMaskHead(nn.Layer):
    """The mask networks of all stages and how features flow between them.

    Args:
        head: the networks, one for each stage (a config gives the section they are all built from).
        roi_extractor: RoI features of the mask networks.
        mask_assigner: makes the targets.
        num_classes: K.
        num_cascade_stages: T.
        mask_info_flow: each stage takes in the feature of the stage before; without it no ``conv_res`` is built.
        class_agnostic: one map for all classes.
    """

    __shared__ = ["num_classes", "num_cascade_stages"]
    __inject__ = {"head": "HybridTaskMaskFeat", "roi_extractor": "RoIAlign", "mask_assigner": "MaskAssigner"}

    def __init__(
        self,
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
        """Build a network for each stage, with channels and scales from the neck's ``out_shape``."""
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
        """Features of stages 0..stages-1 on the same RoIs, each fed with the one before (never detached).

        Args:
            x: RoI features [P, C, 14, 14].
            stages: how many.

        Returns:
            ``stages`` features [P, C', 14, 14]; without information flow all are computed from ``x`` alone.
        """
        features: list[Tensor] = []
        for stage in range(stages):
            previous = features[-1] if features and self.mask_info_flow else None
            features.append(self.head[stage].features(x, previous))
        return features

    def forward(self, x: Tensor, stage: int) -> Tensor:
        """All mask logits [P, maps, 28, 28] of one stage for RoI features [P, C, 14, 14]."""
        return self.head[stage].logits(self._feature(x, stage))

    def _feature(self, x: Tensor, stage: int) -> Tensor:
        if not self.mask_info_flow:
            return self.head[stage].features(x, None)
        return self.stage_features(x, stage + 1)[-1]

    def loss(self, x: Tensor, rois: SampledRoIs, masks: Tensor, stage: int) -> Tensor:
        """Mean cross-entropy of the labelled class's map over the positives' pixels; zero without positives.

        Args:
            x: RoI features [B * P, C, 14, 14] of the slots in ``rois``.
            rois: slots whose ``valid`` marks positives.
            masks: [B, G, H, W] ground-truth bitmaps.
            stage: which network.
        """
        feature = self._feature(x, stage)
        return mask_loss(lambda labels: self.head[stage].logits(feature, labels), rois, masks, self.mask_assigner)

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities averaged over the stages.

        Args:
            x: RoI features [N, C, 14, 14].
            labels: [N] int64.

        Returns:
            [N, 28, 28] float32.
        """
        features = self.stage_features(x, len(self.head))
        logits = [as_float32(head.logits(feature, labels)) for head, feature in zip(self.head, features)]
        return paddle.add_n([F.sigmoid(x) for x in logits]) / float(len(logits))
