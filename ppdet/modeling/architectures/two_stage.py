"""What detectors with a second stage on RoIs have in common: Mask R-CNN, Cascade Mask R-CNN, HTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from paddle import Tensor, nn

from ppdet.core.config.ranges import Provides
from ppdet.core.workspace import create
from ppdet.modeling.architectures.agreement import check_parts
from ppdet.modeling.architectures.architecture import Architecture
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
from ppdet.structures.predictions import Candidates, Predictions
from ppdet.structures.shapes import positions, without_last

__all__ = ["TwoStageDetector"]


class TwoStageDetector(Architecture):
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

    has_candidates = True
    export_arch = "RCNN"
    min_subgraph_size = 40
    """PaddleDetection's value for two-stage detectors."""

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
        self.num_classes = getattr(bbox_head, "num_classes", None)
        self.training_fields = {"boxes": ""}
        if mask_head is not None:
            self.mask_frame = "box"
            self.training_fields["masks"] = "mask_head"
        if fused_semantic_head is not None:
            self.semantic_num_classes = getattr(fused_semantic_head, "semantic_num_classes", None)
            self.training_fields["semantic"] = "fused_semantic_head"
        if mask_post_process is not None:
            self.mask_threshold = float(mask_post_process.binary_thresh)

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
        return self._candidates(batch)[1]

    def _candidates(self, batch: Batch) -> tuple[Features, Candidates]:
        """The maps that RoIs are pooled from, and the refined boxes before suppression."""
        im_shape = as_float32(batch.im_shape)
        pyramid = self.neck(self.backbone(batch.image))
        proposals, _ = self.rpn_head.propose(pyramid, self.rpn_head(pyramid), im_shape)
        semantic = None if self.fused_semantic_head is None else self.fused_semantic_head(pyramid).feature
        features = _to_pool_from(pyramid, semantic)
        boxes, probability = self.bbox_head.predict(features, proposals, im_shape)
        return features, Candidates(boxes, probability, proposals.valid)

    def predict(self, batch: Batch) -> Predictions:
        """Detections of one batch."""
        features, found = self._candidates(batch)
        rows, number = self.bbox_post_process(found.boxes, found.probability, found.valid)
        original = self.bbox_post_process.to_original(rows, number, batch.scale_factor)
        masks = None if self.mask_head is None else without_last(self._masks(features, rows, number))
        return Predictions(
            labels=without_last(original[:, 0].astype("int64")),
            scores=without_last(original[:, 1]),
            counts=number,
            boxes=without_last(original[:, 2:]),
            masks=masks,
        )

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
