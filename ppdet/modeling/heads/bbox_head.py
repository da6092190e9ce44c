"""Box branch with one stage, as in Faster R-CNN (1506.01497) and Mask R-CNN (1703.06870).

Symbols: B images, N boxes per image, S slots for sampled RoIs per image, R RoIs of the whole batch, K object classes,
C channels and s side of a RoI feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from paddle import Tensor, nn

from ppdet.core.config.ranges import BoxWeights, ClassCount, NonNegative, Provides
from ppdet.core.workspace import register
from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.heads.bbox_outputs import bbox_losses, build_box_parts, decode_all_classes, output_layer
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.roi_heads.standard_roi_heads import StandardRoIHeads
from ppdet.modeling.shape_spec import ShapeSpec
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import SampledRoIs

__all__ = ["BBoxHead"]


@register
class BBoxHead(nn.Layer):
    """Class logits and box deltas of RoIs.

    Args:
        head: the fully connected layers.
        roi_extractor: pools the RoI features.
        bbox_assigner: samples the RoIs to train on.
        num_classes: K.
        bbox_stds: divisors of the regression targets.
        smooth_l1_beta: beta of the box loss; 0 is the L1 loss of Mask R-CNN and PaddleDetection.
        reg_class_agnostic: predict the same four deltas for all classes.
    """

    __shared__ = ["num_classes"]
    __inject__ = {"head": "TwoFCHead", "roi_extractor": "RoIAlign", "bbox_assigner": "BBoxAssigner"}

    roi_heads_class: ClassVar[type[StandardRoIHeads]] = StandardRoIHeads
    """Runs this head together with a mask head."""

    def __init__(
        self,
        *,
        head: Annotated[nn.Layer, Provides("out_channel")],
        roi_extractor: RoIAlign,
        bbox_assigner: BBoxAssigner,
        num_classes: ClassCount = 80,
        bbox_stds: BoxWeights = (0.1, 0.1, 0.2, 0.2),
        smooth_l1_beta: NonNegative = 0.0,
        reg_class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.roi_extractor = roi_extractor
        self.bbox_assigner = bbox_assigner
        self.num_classes = num_classes
        self.bbox_stds = [tuple(float(std) for std in bbox_stds)]
        self.smooth_l1_beta = smooth_l1_beta
        self.bbox_score = output_layer(head.out_channel, num_classes + 1, 0.01)
        self.bbox_delta = output_layer(head.out_channel, 4 if reg_class_agnostic else 4 * num_classes, 0.001)

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any], input_shape: Sequence[ShapeSpec] | None = None, **_: Any
    ) -> dict[str, Any]:
        """See :func:`~ppdet.modeling.heads.bbox_outputs.build_box_parts`."""
        return build_box_parts(cfg, input_shape)

    def forward(self, x: Tensor, stage: int = 0) -> tuple[Tensor, Tensor]:
        """Map RoI features [R, C, s, s] to logits [R, K + 1] and deltas [R, 4] or [R, 4 K]."""
        x = self.head(x)
        return self.bbox_score(x), self.bbox_delta(x)

    def loss(self, logits: Tensor, deltas: Tensor, rois: SampledRoIs, targets: Targets) -> dict[str, Tensor]:
        """Compute the losses ``loss_bbox_cls`` and ``loss_bbox_reg``.

        Args:
            logits: [B * S, K + 1].
            deltas: [B * S, 4] or [B * S, 4 K].
            rois: the sampled RoIs.
            targets: ground truth.
        """
        classification, regression = bbox_losses(
            logits, deltas, rois, targets, self.bbox_stds[0], self.num_classes, self.smooth_l1_beta
        )
        return {"loss_bbox_cls": classification, "loss_bbox_reg": regression}

    def decode(self, boxes: Tensor, logits: Tensor, deltas: Tensor, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the outputs for boxes [B, N, 4] into refined boxes and probabilities.

        Args:
            boxes: [B, N, 4] xyxy in pixels of the network input.
            logits: [B * N, K + 1].
            deltas: [B * N, 4] or [B * N, 4 K].
            im_shape: [B, 2] (h, w) of the unpadded images.

        Returns:
            boxes [B, N, 4], or [B, N, K, 4] if the deltas depend on the class, clipped to the images; class
            probabilities [B, N, K + 1].
        """
        shape = [boxes.shape[0], -1, self.num_classes + 1]
        boxes = decode_all_classes(boxes, deltas, self.bbox_stds[0], self.num_classes, im_shape)
        return boxes, nn.functional.softmax(as_float32(logits), axis=-1).reshape(shape)
