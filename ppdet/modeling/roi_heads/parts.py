"""What RoI heads require of the parts that they run.

Symbols: B images, N boxes per image, S slots for sampled RoIs and P slots for positive RoIs per image, G ground-truth
slots per image, R RoIs of the whole batch, K object classes, T stages, C channels and s side of a RoI feature; H x W is
the padded network input. Boxes are xyxy in pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from paddle import Tensor

from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs

__all__ = ["BoxBranch", "CascadeBranch", "HybridBranch", "MaskBranch", "SemanticBranch"]


class _BoxOutputs(Protocol):
    """What box branches with and without stages have in common.

    Attributes:
        roi_extractor: pools the RoI features.
        bbox_assigner: samples the RoIs to train on.
    """

    roi_extractor: RoIAlign
    bbox_assigner: BBoxAssigner


class BoxBranch(_BoxOutputs, Protocol):
    """Box branch with one stage, such as :class:`~ppdet.modeling.heads.bbox_head.BBoxHead`."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map RoI features [R, C, s, s] to logits [R, K + 1] and deltas [R, 4] or [R, 4 K]."""

    def loss(self, logits: Tensor, deltas: Tensor, rois: SampledRoIs, targets: Targets) -> dict[str, Tensor]:
        """Compute the weighted losses by name."""

    def decode(self, boxes: Tensor, logits: Tensor, deltas: Tensor, im_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Refine boxes [B, N, 4]; return boxes [B, N, 4] or [B, N, K, 4] and probabilities [B, N, K + 1]."""


class CascadeBranch(_BoxOutputs, Protocol):
    """Box branches of T stages, such as :class:`~ppdet.modeling.heads.cascade_head.CascadeHead`.

    Attributes:
        num_classes: K.
        num_stages: T.
        stage_loss_weights: weight of all losses of each stage.
    """

    num_classes: int
    num_stages: int
    stage_loss_weights: list[float]

    def __call__(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Map RoI features [R, C, s, s] to logits [R, K + 1] and deltas [R, 4] or [R, 4 K] of one stage."""

    def loss(
        self, logits: Tensor, deltas: Tensor, rois: SampledRoIs, targets: Targets, stage: int
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of one stage by name."""

    def refine(self, rois: SampledRoIs, logits: Tensor, deltas: Tensor, im_shape: Tensor, stage: int) -> Proposals:
        """Turn the sampled RoIs of a stage into the candidates of the next one."""

    def decode(self, boxes: Tensor, logits: Tensor, deltas: Tensor, im_shape: Tensor, stage: int) -> Tensor:
        """Refine boxes [B, N, 4] to [B, N, 4], or to [B, N, K, 4] in the last stage."""

    def average(self, logits: Sequence[Tensor]) -> Tensor:
        """Combine the stages' logits [R, K + 1] to probabilities [R, K + 1]."""


class HybridBranch(CascadeBranch, Protocol):
    """Box branches of HTC, see :class:`~ppdet.modeling.heads.hybrid_task_cascade_head.HybridTaskCascadeHead`.

    Attributes:
        semantic_roi_extractor: pools the semantic feature.
        interleaved: masks train on the boxes that their stage has refined.
        semantic_fusion: the branches, ``bbox`` and ``mask``, whose RoI features include the semantic feature.
    """

    semantic_roi_extractor: RoIAlign
    interleaved: bool
    semantic_fusion: tuple[str, ...]


class MaskBranch(Protocol):
    """Mask branch, such as :class:`~ppdet.modeling.heads.mask_head.MaskHead`.

    Attributes:
        per_stage: there is a network for each stage of a cascade; otherwise one network serves all stages.
        roi_extractor: pools the RoI features.
    """

    @property
    def per_stage(self) -> bool:
        """See the attributes of the class."""

    roi_extractor: RoIAlign

    def loss(self, x: Tensor, rois: SampledRoIs, masks: Tensor, stage: int = 0) -> Tensor:
        """Compute the loss of RoI features [B * P, C, s, s] against bitmaps [B, G, H, W]."""

    def predict(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map RoI features [R, C, s, s] and labels [R] to mask probabilities [R, h, w]."""


class SemanticBranch(Protocol):
    """Semantic branch, such as :class:`~ppdet.modeling.heads.fused_semantic_head.FusedSemanticHead`."""

    def __call__(self, features: Sequence[Tensor]) -> Any:
        """Return an object with ``logits`` and ``feature``."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the weighted loss against a label map [B, H, W]."""
