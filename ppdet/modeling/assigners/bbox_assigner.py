"""Training RoIs of a second stage: match, add the ground truth, sample."""

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
    """Match a stage's candidates with ground truth and draw the RoIs to train on (HTC, section 3; Cascade R-CNN).

    Args:
        batch_size_per_im: RoIs drawn per image; all candidates where there are fewer.
        fg_fraction: largest share of positives among them.
        fg_thresh: IoU from which a candidate is positive, for a head of one stage.
        bg_thresh: IoU below which it is negative, for a head of one stage.
        cascade_iou: the IoU of each stage of a cascade, positive and negative threshold alike.
        allow_low_quality: also let each object claim the candidates that tie for its best IoU, if that reaches the
            stage's threshold. HTC does, Cascade Mask R-CNN does not.
        use_random: draw at random; otherwise the first ones are taken.
        add_gt: ground truth joins the candidates of a stage; one answer, or one for each stage.
        draw_later_stages: stages after the first draw, too; otherwise they train on all their candidates, as in
            PaddleDetection.
        num_classes: K; the label of negatives.
    """

    __shared__ = ["num_classes"]

    def __init__(
        self,
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
        """Positive and negative IoU threshold of a cascade's stage, or of a head of one stage (None)."""
        if stage is None:
            return self.fg_thresh, self.bg_thresh
        return self.cascade_iou[stage], self.cascade_iou[stage]

    @paddle.no_grad()
    def __call__(self, candidates: Proposals, targets: Targets, stage: int | None = None) -> SampledRoIs:
        """Draw the RoIs of one stage.

        Matching sees the candidates alone; the ground truth, each object assigned to itself, joins for the draw and
        stands before the candidates, where it may be drawn or not like any other positive.

        Args:
            candidates: N boxes an image.
            targets: ground truth with G slots.
            stage: index of the cascade stage, None for a head of one stage.

        Returns:
            RoIs in S = min(batch_size_per_im, G + N) slots.
        """
        positive, negative = self.thresholds(stage)
        low_quality = positive if self.allow_low_quality else None
        iou = pairwise_iou(targets.boxes, candidates.boxes)
        assigned = match(iou, targets.valid, candidates.valid, positive, negative, low_quality).assigned
        slots = targets.boxes.shape[1]
        itself = paddle.arange(1, slots + 1, dtype="int64").unsqueeze(0)
        joins = self.add_gt if isinstance(self.add_gt, bool) else self.add_gt[stage or 0]
        present = targets.valid if joins else paddle.zeros_like(targets.valid)
        itself = paddle.where(present, itself.expand_as(targets.classes), paddle.full_like(targets.classes, -1))
        assigned = paddle.concat([itself, assigned], axis=1)
        boxes = paddle.concat([as_float32(targets.boxes), as_float32(candidates.boxes)], axis=1)
        number, fraction = self.batch_size_per_im, self.fg_fraction
        if stage and not self.draw_later_stages:
            number, fraction = assigned.shape[1], 1.0
        positives, negatives = sample(assigned, number, fraction, self.use_random)
        return self._lay_out(boxes, assigned, positives, negatives, targets, number, fraction)

    def _lay_out(
        self,
        boxes: Tensor,
        assigned: Tensor,
        positives: Tensor,
        negatives: Tensor,
        targets: Targets,
        most: int,
        fraction: float,
    ) -> SampledRoIs:
        """Bring the chosen boxes into their slots: positives, negatives, nothing."""
        total, slots = boxes.shape[1], targets.boxes.shape[1]
        number = min(most, total)
        place = paddle.arange(total, dtype="int64").unsqueeze(0)
        group = 2 - 2 * positives.astype("int64") - negatives.astype("int64")
        order = paddle.argsort(group * total + place, axis=1)[:, :number]

        def pick(values: Tensor) -> Tensor:
            return paddle.take_along_axis(values, order, axis=1)

        positive = pick(positives.astype("int64")) > 0
        valid = pick(group) < 2
        gt_index = (pick(assigned) - 1).clip(min=0)
        labels = paddle.take_along_axis(targets.classes, gt_index, axis=1)
        labels = paddle.where(positive, labels, paddle.full_like(labels, self.num_classes))
        picked = paddle.take_along_axis(boxes, order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        return SampledRoIs(
            boxes=picked * valid.astype("float32").unsqueeze(-1),
            labels=labels,
            gt_index=gt_index,
            positive=positive,
            valid=valid,
            is_gt=paddle.logical_and(order < slots, positive),
            max_positives=min(int(most * fraction), number),
        )
