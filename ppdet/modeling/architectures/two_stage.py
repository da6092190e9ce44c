"""Base class of detectors with a second stage on RoIs: Faster and Mask R-CNN, Cascade R-CNN, HTC.

Symbols: B images, H x W the padded network input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from paddle import Tensor, nn

from ppdet.core.config.ranges import Provides
from ppdet.core.workspace import create
from ppdet.modeling.architectures.agreement import check_parts
from ppdet.modeling.architectures.architecture import Architecture
from ppdet.modeling.heads.fused_semantic_head import FusedSemanticHead
from ppdet.modeling.ops.precision import as_float32
from ppdet.modeling.post_process import BBoxPostProcess, MaskPostProcess
from ppdet.modeling.proposal_generator.rpn_head import RPNHead
from ppdet.modeling.roi_heads.roi_heads import RoIHeads
from ppdet.structures.batch import Batch
from ppdet.structures.features import Features
from ppdet.structures.predictions import Candidates, Predictions
from ppdet.structures.shapes import without_last

__all__ = ["TwoStageDetector"]


class TwoStageDetector(Architecture):
    """Backbone, optional neck, region proposals, and heads on RoIs.

    Args:
        backbone: maps images [B, 3, H, W] to feature maps, C2..C5 for example.
        neck: maps those to the feature maps of the heads, P2..P6 for example; None to give the heads the maps of the
            backbone, which then need the same number of channels.
        rpn_head: region proposals.
        bbox_head: box branch with one stage or several. Its ``roi_heads_class`` decides in which order it runs with
            the mask and the semantic branch.
        mask_head: mask branch, None to predict boxes only.
        fused_semantic_head: semantic branch, None to disable it.
        bbox_post_process: suppression and scaling.
        mask_post_process: how callers turn mask probabilities into bitmaps.

    Raises:
        ParameterError: two parts do not fit each other.
    """

    has_candidates = True
    export_arch = "RCNN"
    min_subgraph_size = 40
    """PaddleDetection's value for two-stage detectors."""

    def __init__(
        self,
        *,
        backbone: Annotated[nn.Layer, Provides("out_shape")],
        neck: Annotated[nn.Layer, Provides("out_shape", "from_config")] | None = None,
        rpn_head: RPNHead,
        bbox_head: Annotated[nn.Layer, Provides("roi_heads_class")],
        bbox_post_process: BBoxPostProcess,
        mask_post_process: MaskPostProcess | None = None,
        mask_head: Annotated[nn.Layer, Provides("per_stage")] | None = None,
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
        self.roi_heads: RoIHeads = bbox_head.roi_heads_class(bbox_head, mask_head, fused_semantic_head)
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
        """Build the parts in order, each from the shapes of the feature maps before it.

        Args:
            cfg: the section of the class.
        """
        backbone = create(cfg["backbone"])
        neck = create(cfg["neck"], input_shape=backbone.out_shape)
        shapes = backbone.out_shape if neck is None else neck.out_shape
        semantic = create(cfg.get("fused_semantic_head"), input_shape=shapes)
        settings: dict[str, Any] = {} if semantic is None else {"semantic_stride": semantic.fusion_stride}
        post_process = create(cfg["bbox_post_process"])
        return {
            "backbone": backbone,
            "neck": neck,
            "rpn_head": create(cfg["rpn_head"], input_shape=shapes),
            "bbox_head": create(cfg["bbox_head"], input_shape=shapes, **settings),
            "bbox_post_process": post_process,
            "mask_head": create(cfg["mask_head"], input_shape=shapes),
            "fused_semantic_head": semantic,
        }

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps that the heads get for images [B, 3, H, W], finest first."""
        maps: list[Tensor] = self.backbone(image)
        return maps if self.neck is None else self.neck(maps)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """See :meth:`Architecture.loss`."""
        targets = batch.targets
        assert targets is not None
        pyramid = self.pyramid(batch.image)
        rpn = self.rpn_head(pyramid)
        losses = self.rpn_head.loss(pyramid, rpn, batch.im_shape, targets)
        proposals, _ = self.rpn_head.propose(pyramid, rpn, batch.im_shape)
        losses.update(self.roi_heads.loss(pyramid, proposals, batch.im_shape, targets))
        losses["loss"] = sum(losses.values())
        return losses

    def candidates(self, batch: Batch) -> Candidates:
        """See :meth:`Architecture.candidates`."""
        return self._candidates(batch)[1]

    def _candidates(self, batch: Batch) -> tuple[Features, Candidates]:
        """Return the maps that RoIs are pooled from, and the refined boxes before suppression."""
        im_shape = as_float32(batch.im_shape)
        pyramid = self.pyramid(batch.image)
        proposals, _ = self.rpn_head.propose(pyramid, self.rpn_head(pyramid), im_shape)
        features = self.roi_heads.feature_maps(pyramid)
        boxes, probability = self.roi_heads.predict(features, proposals, im_shape)
        return features, Candidates(boxes, probability, proposals.valid)

    def predict(self, batch: Batch) -> Predictions:
        """See :meth:`Architecture.predict`."""
        features, candidates = self._candidates(batch)
        rows, counts = self.bbox_post_process(candidates.boxes, candidates.probability, candidates.valid)
        original = self.bbox_post_process.to_original(rows, counts, batch.scale_factor)
        outputs = [original[:, 0].astype("int64"), original[:, 1], original[:, 2:]]
        if self.mask_head is not None:
            outputs.append(self.roi_heads.predict_masks(features, rows, counts))
        labels, scores, boxes, *masks = without_last(*outputs)  # the spare row
        return Predictions(labels=labels, scores=scores, counts=counts, boxes=boxes, masks=masks[0] if masks else None)

    def parts(self) -> Mapping[str, Callable[[Batch], tuple[Tensor, ...]]]:
        """See :meth:`Architecture.parts`."""
        ends = {"backbone + neck": self._pyramid_of, "RPN": self._proposals_of}
        if not self.has_masks:
            return {**ends, "box stages": self._complete}
        return {**ends, "box stages": self._rows_of, "masks": self._complete}

    def _pyramid_of(self, batch: Batch) -> tuple[Tensor, ...]:
        return tuple(self.pyramid(batch.image))

    def _proposals_of(self, batch: Batch) -> tuple[Tensor, ...]:
        pyramid = self.pyramid(batch.image)
        proposals, _ = self.rpn_head.propose(pyramid, self.rpn_head(pyramid), batch.im_shape)
        return (*pyramid, proposals.boxes, proposals.valid)

    def _rows_of(self, batch: Batch) -> tuple[Tensor, ...]:
        candidates = self.candidates(batch)
        rows, counts = self.bbox_post_process(candidates.boxes, candidates.probability, candidates.valid)
        return rows, counts
