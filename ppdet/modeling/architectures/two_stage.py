"""What detectors with a second stage on RoIs have in common: Mask R-CNN, Cascade Mask R-CNN, HTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import paddle
from paddle import Tensor, nn

from ppdet.core.config.ranges import Provides
from ppdet.core.workspace import create
from ppdet.modeling.architectures.agreement import check_parts
from ppdet.modeling.heads.box_branch import BBoxHead
from ppdet.modeling.heads.htc_head import HybridTaskCascadeHead
from ppdet.modeling.heads.mask_branch import MaskHead
from ppdet.modeling.heads.mask_head import HybridTaskMaskHead
from ppdet.modeling.heads.semantic_head import FusedSemanticHead
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.post_process import BBoxPostProcess, MaskPostProcess
from ppdet.modeling.proposal_generator.rpn_head import RPNHead
from ppdet.structures.batch import Batch
from ppdet.structures.features import Features
from ppdet.structures.shapes import positions

__all__ = ["TwoStageDetector"]


class Candidates(NamedTuple):
    """What the box branch says of every proposal.

    Attributes:
        features: the maps that RoIs are pooled from.
        boxes: [B, N, 4], or class by class [B, N, K, 4], input pixels.
        probability: [B, N, K + 1], background last.
        valid: [B, N] bool; False where a slot holds no proposal.
    """

    features: Features
    boxes: Tensor
    probability: Tensor
    valid: Tensor


class TwoStageDetector(nn.Layer):
    """Backbone, neck, proposals, semantic branch, RoI heads.

    Args:
        backbone: image [B, 3, H, W] -> C2..C5.
        neck: C2..C5 -> P2..P6.
        rpn_head: proposals.
        bbox_head: one stage or a cascade.
        mask_head: mask branch, None for boxes only.
        fused_semantic_head: semantic branch, None to go without.
        bbox_post_process: suppression and scaling.
        mask_post_process: settings for the pasting that callers do.

    Raises:
        ParameterError: two parts do not fit each other.
    """

    __category__ = "architecture"

    def __init__(
        self,
        backbone: Annotated[nn.Layer, Provides("out_shape")],
        neck: Annotated[nn.Layer, Provides("out_shape", "from_config")],
        rpn_head: RPNHead,
        bbox_head: HybridTaskCascadeHead | BBoxHead,
        bbox_post_process: BBoxPostProcess,
        mask_post_process: MaskPostProcess | None = None,
        mask_head: HybridTaskMaskHead | MaskHead | None = None,
        fused_semantic_head: FusedSemanticHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn_head = rpn_head
        self.bbox_head = bbox_head
        self.mask_head = mask_head
        self.fused_semantic_head = fused_semantic_head
        self.bbox_post_process = bbox_post_process
        self.mask_post_process = mask_post_process
        check_parts(self)

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Build the parts in order, each knowing the shapes of the one before."""
        backbone = create(cfg["backbone"])
        neck = create(cfg["neck"], input_shape=backbone.out_shape)
        shapes = neck.out_shape
        semantic = create(cfg.get("fused_semantic_head"), input_shape=shapes)
        settings: dict[str, Any] = {} if semantic is None else {"semantic_stride": semantic.fusion_stride}
        post_process = create(cfg["bbox_post_process"])
        if post_process.decode is not None and post_process.decode.prior_box_var is not None:
            settings["prior_box_var"] = post_process.decode.prior_box_var
        return {
            "backbone": backbone,
            "neck": neck,
            "rpn_head": create(cfg["rpn_head"], input_shape=shapes),
            "bbox_head": create(cfg["bbox_head"], input_shape=shapes, **settings),
            "bbox_post_process": post_process,
            "mask_head": create(cfg["mask_head"], input_shape=shapes),
            "fused_semantic_head": semantic,
        }

    def forward(self, inputs: Mapping[str, Tensor] | None = None, **kwargs: Tensor) -> dict[str, Tensor]:
        """One batch, as a dict or as keywords.

        Args:
            inputs: ``image`` [B, 3, H, W], ``im_shape`` [B, 2] (h, w), ``scale_factor`` [B, 2] (y, x); in training
                also the ground truth, see :class:`~ppdet.structures.batch.Batch`.
            **kwargs: the same by name.

        Returns:
            in training the weighted losses, 0-D, and their sum as ``loss``; otherwise ``bbox`` [N, 6] (label, score,
            x1, y1, x2, y2 in original pixels), ``bbox_num`` [B] int32 and, with a mask head, ``mask`` [N, 28, 28]
            float32 probabilities in the frame of each box.
        """
        batch = Batch.from_inputs({**(inputs or {}), **kwargs}, training=self.training)
        return self.loss(batch) if self.training else self.predict(batch)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of one training step."""
        targets = batch.targets
        assert targets is not None
        pyramid = self.neck(self.backbone(batch.image))
        rpn = self.rpn_head(pyramid)
        losses = self.rpn_head.loss(pyramid, rpn, batch.im_shape, targets)
        proposals, _ = self.rpn_head.propose(pyramid, rpn, batch.im_shape)
        semantic = None
        if self.fused_semantic_head is not None:
            output = self.fused_semantic_head(pyramid)
            semantic = output.feature
            losses["loss_semantic"] = self.fused_semantic_head.loss(output.logits, targets.semantic)
            # Without fusion nobody reads the feature; every parameter still gets a gradient, which DataParallel needs.
            losses["loss_semantic"] = losses["loss_semantic"] + 0.0 * as_float32(output.feature).mean()
        features = _to_pool_from(pyramid, semantic)
        losses.update(self.bbox_head.loss(features, proposals, batch.im_shape, targets, self.mask_head))
        losses["loss"] = sum(losses.values())
        return losses

    def candidates(self, batch: Batch) -> Candidates:
        """Refined boxes of one batch before suppression."""
        im_shape = as_float32(batch.im_shape)
        pyramid = self.neck(self.backbone(batch.image))
        proposals, _ = self.rpn_head.propose(pyramid, self.rpn_head(pyramid), im_shape)
        semantic = None if self.fused_semantic_head is None else self.fused_semantic_head(pyramid).feature
        features = _to_pool_from(pyramid, semantic)
        boxes, probability = self.bbox_head.predict(features, proposals, im_shape)
        return Candidates(features, boxes, probability, proposals.valid)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Detections of one batch."""
        found = self.candidates(batch)
        rows, number = self.bbox_post_process(found.boxes, found.probability, found.valid)
        original = self.bbox_post_process.to_original(rows, number, batch.scale_factor)
        outputs = {"bbox": _without_last(original), "bbox_num": number}
        if self.mask_head is not None:
            outputs["mask"] = _without_last(self._masks(found.features, rows, number))
        return outputs

    def _masks(self, features: Features, rows: Tensor, number: Tensor) -> Tensor:
        """Mask probabilities [D + 1, 28, 28] of rows [D + 1, 6] in input pixels; the last image gets the spare row."""
        assert self.mask_head is not None
        index = positions(number)
        last = index == index.max()
        x = self.bbox_head.mask_features(self.mask_head)(features, rows[:, 2:], number + last.astype("int32"))
        return self.mask_head.predict(x, rows[:, 0].astype("int64"))


def _to_pool_from(pyramid: Sequence[Tensor], semantic: Tensor | None) -> Features:
    """The maps in float32, in which RoIs are pooled: one cast for all the poolings."""
    return Features([as_float32(level) for level in pyramid], None if semantic is None else as_float32(semantic))


def _without_last(x: Tensor) -> Tensor:
    """``x[:-1]``; in a graph by another operator, as oneDNN's slice fails where nothing is left."""
    if paddle.in_dynamic_mode():
        return x[:-1]
    index = positions(x.flatten(1)[:, 0])
    return paddle.gather(x, paddle.nonzero(index < index.max()).flatten())
