"""One mask network for all RoIs, as Mask R-CNN has it (1703.06870, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddle import ParamAttr, Tensor, nn
from paddle.nn import functional as F

from ppdet.core.config.ranges import Channels, ClassCount, Convolutions
from ppdet.core.workspace import ParameterError, create, register
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.heads.mask_head import logits_of_label, mask_loss, require_mask_size
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.layers import conv_fan_out, convolve
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.proposals import SampledRoIs

__all__ = ["MaskFeat", "MaskHead"]


@register
class MaskFeat(nn.Layer):
    """Convolutions and upsampling.

    Args:
        in_channel: channels of the RoI feature.
        out_channel: channels of the convolutions.
        num_convs: 3x3 convolutions; without any the RoI feature itself is upsampled.
    """

    def __init__(self, in_channel: Channels = 256, out_channel: Channels = 256, num_convs: Convolutions = 4) -> None:
        super().__init__()
        self.out_channel = out_channel
        self.upsample = nn.Sequential()  # PaddleDetection's name for all of it
        for index in range(num_convs):
            attr = ParamAttr(initializer=conv_fan_out(out_channel, 3))
            conv = nn.Conv2D(in_channel if index == 0 else out_channel, out_channel, 3, padding=1, weight_attr=attr)
            self.upsample.add_sublayer(f"mask_inter_feat_{index + 1}", conv)
            self.upsample.add_sublayer(f"relu_{index + 1}", nn.ReLU())
        attr = ParamAttr(initializer=conv_fan_out(out_channel, 2))
        channels = out_channel if num_convs else in_channel
        self.upsample.add_sublayer(
            "conv5_mask", nn.Conv2DTranspose(channels, out_channel, 2, stride=2, weight_attr=attr)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[P, C, 14, 14] -> [P, out_channel, 28, 28]."""
        for layer in self.upsample.children():
            if isinstance(layer, nn.Conv2D):
                x = convolve(layer, x, relu=True)
            elif isinstance(layer, nn.Conv2DTranspose):
                x = F.relu(layer(x))
        return x


@register
class MaskHead(nn.Layer):
    """One network for the masks of all RoIs.

    Args:
        head: convolutions and upsampling.
        roi_extractor: RoI features.
        mask_assigner: makes the targets.
        num_classes: K.
        class_agnostic: one map for all classes.
        share_bbox_feat: accepted for PaddleDetection's configs; only false is supported.

    Raises:
        ParameterError: ``share_bbox_feat`` is set, or the targets have another size than the maps.
    """

    __shared__ = ["num_classes"]
    __inject__ = {"head": "MaskFeat", "roi_extractor": "RoIAlign", "mask_assigner": "MaskAssigner"}

    def __init__(
        self,
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
                "{0} is true, but masks have RoI features of their own: set it to false", "share_bbox_feat"
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
        """Take channels and scales from the neck's ``out_shape``."""
        if input_shape is None:
            return {}
        return {
            "head": create(cfg["head"], implied={"in_channel": input_shape[0].channels}),
            "roi_extractor": create(cfg["roi_extractor"], input_shape=input_shape),
        }

    def forward(self, x: Tensor, stage: int = 0) -> Tensor:
        """All mask logits [P, maps, 28, 28] for RoI features [P, C, 14, 14]."""
        return self.mask_fcn_logits(self.head(x))

    def loss(self, x: Tensor, rois: SampledRoIs, masks: Tensor, stage: int = 0) -> Tensor:
        """See :meth:`~ppdet.modeling.heads.mask_head.HybridTaskMaskHead.loss`."""
        return mask_loss(
            lambda labels: logits_of_label(self.head(x), self.mask_fcn_logits, labels), rois, masks, self.mask_assigner
        )

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities [N, 28, 28] float32 for RoI features [N, C, 14, 14] and labels [N] int64."""
        return F.sigmoid(as_float32(logits_of_label(self.head(x), self.mask_fcn_logits, labels)))
