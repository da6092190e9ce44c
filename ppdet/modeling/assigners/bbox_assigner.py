"""Training RoIs: match candidates with ground truth, add the ground truth, sample.

Symbols: B images, N candidates per image, G ground-truth slots per image, S slots for sampled RoIs per image, K object
classes; class K is the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import ClassCount, Fraction, Length, TopN
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.assigners.matcher import match
from ppdet.modeling.assigners.sampler import sample
from ppdet.modeling.ops.boxes import pairwise_iou
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.batch import Targets
from ppdet.structures.proposals import Proposals, SampledRoIs

__all__ = ["BBoxAssigner"]


@register
class BBoxAssigner:
    """Matches candidates with ground truth and samples the RoIs to train on (Fast R-CNN, section 2.3; Cascade R-CNN).

    Args:
        batch_size_per_im: RoIs to sample per image; all candidates if there are fewer.
        fg_fraction: largest share of positives among them.
        fg_thresh: lowest IoU of positives, for a head with one stage.
        bg_thresh: IoU below which candidates are negative, for a head with one stage.
        cascade_iou: both thresholds of each stage of a cascade.
        allow_low_quality: also assign to each object the candidates that have the highest IoU with it, if that reaches
            the threshold of the stage. True in HTC, false in Cascade Mask R-CNN.
        use_random: sample at random; otherwise take the first candidates.
        add_gt: add the ground truth to the candidates; one value for all stages or one for each.
        draw_later_stages: sample in stages after the first, too; otherwise they train on all their candidates, as in
            PaddleDetection.
        num_classes: K, the label of negatives.

    Raises:
        ParameterError: ``bg_thresh`` is above ``fg_thresh``.
    """

    __shared__ = ["num_classes"]

    def __init__(
        self,
        *,
        batch_size_per_im: TopN = 512,
        fg_fraction: Fraction = 0.25,
        fg_thresh: Fraction = 0.5,
        bg_thresh: Fraction = 0.5,
        cascade_iou: Annotated[Sequence[Fraction], Length(1, 16)] = (0.5, 0.6, 0.7),
        allow_low_quality: bool = True,
        use_random: bool = True,
        add_gt: bool | Annotated[Sequence[bool], Length(1, 16)] = True,
        draw_later_stages: bool = True,
        num_classes: ClassCount = 80,
    ) -> None:
        if bg_thresh > fg_thresh:
            raise ParameterError(
                "{0} is {negative}, above {1}, {positive}: a box would be positive and negative",
                "bg_thresh",
                "fg_thresh",
                negative=bg_thresh,
                positive=fg_thresh,
            )
        self.batch_size_per_im = batch_size_per_im
        self.fg_fraction = fg_fraction
        self.fg_thresh = fg_thresh
        self.bg_thresh = bg_thresh
        self.cascade_iou = tuple(float(v) for v in cascade_iou)
        self.allow_low_quality = allow_low_quality
        self.use_random = use_random
        self.add_gt = add_gt
        self.draw_later_stages = draw_later_stages
        self.num_classes = num_classes

    def thresholds(self, stage: int | None) -> tuple[float, float]:
        """Return the IoU thresholds for positives and negatives of a stage of a cascade; None for a single stage."""
        if stage is None:
            return self.fg_thresh, self.bg_thresh
        return self.cascade_iou[stage], self.cascade_iou[stage]

    @paddle.no_grad()
    def __call__(self, candidates: Proposals, targets: Targets, stage: int | None = None) -> SampledRoIs:
        """Sample the RoIs of one stage.

        Only the candidates are matched. The ground truth is added before them for sampling, each object assigned to
        itself, and is sampled like any other positive.

        Args:
            candidates: N boxes per image.
            targets: ground truth with G slots.
            stage: index of the stage of a cascade, None for a head with one stage.

        Returns:
            RoIs in S = min(batch_size_per_im, G + N) slots.
        """
        positive, negative = self.thresholds(stage)
        low_quality = positive if self.allow_low_quality else None
        iou = pairwise_iou(targets.boxes, candidates.boxes)
        assigned = match(iou, targets.valid, candidates.valid, positive, negative, low_quality).assigned
        slots = targets.boxes.shape[1]
        gt_assigned = paddle.arange(1, slots + 1, dtype="int64").unsqueeze(0).expand_as(targets.classes)
        add_gt = self.add_gt if isinstance(self.add_gt, bool) else self.add_gt[stage or 0]
        added = targets.valid if add_gt else paddle.zeros_like(targets.valid)
        gt_assigned = paddle.where(added, gt_assigned, paddle.full_like(targets.classes, -1))
        assigned = paddle.concat([gt_assigned, assigned], axis=1)
        boxes = paddle.concat([as_float32(targets.boxes), as_float32(candidates.boxes)], axis=1)
        limit, fraction = self.batch_size_per_im, self.fg_fraction
        if stage and not self.draw_later_stages:
            limit, fraction = assigned.shape[1], 1.0
        positives, negatives = sample(assigned, limit, fraction, self.use_random)
        return self._in_slots(boxes, assigned, positives, negatives, targets, limit, fraction)

    def _in_slots(
        self,
        boxes: Tensor,
        assigned: Tensor,
        positives: Tensor,
        negatives: Tensor,
        targets: Targets,
        limit: int,
        fraction: float,
    ) -> SampledRoIs:
        """Lay the sampled boxes out in slots: positives, negatives, empty slots."""
        total, slots = boxes.shape[1], targets.boxes.shape[1]
        num_slots = min(limit, total)
        index = paddle.arange(total, dtype="int64").unsqueeze(0)
        group = 2 - 2 * positives.astype("int64") - negatives.astype("int64")
        order = paddle.argsort(group * total + index, axis=1)[:, :num_slots]

        def pick(values: Tensor) -> Tensor:
            return paddle.take_along_axis(values, order, axis=1)

        positive = pick(positives.astype("int64")) > 0
        valid = pick(group) < 2
        gt_index = (pick(assigned) - 1).clip(min=0)
        labels = paddle.take_along_axis(targets.classes, gt_index, axis=1)
        labels = paddle.where(positive, labels, paddle.full_like(labels, self.num_classes))
        sampled = paddle.take_along_axis(boxes, order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        return SampledRoIs(
            boxes=sampled * valid.astype("float32").unsqueeze(-1),
            labels=labels,
            gt_index=gt_index,
            positive=positive,
            valid=valid,
            is_gt=paddle.logical_and(order < slots, positive),
            max_positives=min(int(limit * fraction), num_slots),
        )
