"""From anchors, scores and deltas to proposals."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import Fraction, NonNegative, TopN
from ppdet.core.workspace import register
from ppdet.modeling.ops.boxes import clip_boxes, decode_boxes
from ppdet.modeling.ops.nms import multiclass_nms, rows_to_slots
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.proposals import Proposals

__all__ = ["ProposalGenerator"]


@register
class ProposalGenerator:
    """The best boxes of each level after suppression within the level, then the best over all levels of an image.

    Paddle's ``generate_proposals`` is not used: it drops boxes under one pixel, which the official rule does not.

    Args:
        pre_nms_top_n: boxes a level brings into the suppression.
        post_nms_top_n: proposals an image keeps.
        nms_thresh: IoU above which the lesser box goes.
        min_size: boxes need width and height above this, pixels.
        topk_after_collect: accepted for PaddleDetection's configs. False caps each level at ``post_nms_top_n``, too,
            which changes nothing: no more of a level can be among the best ``post_nms_top_n`` of all.
    """

    def __init__(
        self,
        pre_nms_top_n: TopN = 2000,
        post_nms_top_n: TopN = 2000,
        nms_thresh: Fraction = 0.7,
        min_size: NonNegative = 0.0,
        topk_after_collect: bool = True,
    ) -> None:
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_thresh = nms_thresh
        self.min_size = min_size

    @paddle.no_grad()
    def __call__(
        self,
        anchors: Sequence[Tensor],
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        im_shape: Tensor,
        fixed_slots: bool,
    ) -> tuple[Proposals, Tensor]:
        """Proposals of a batch, best first.

        Args:
            anchors: per level [n_l, 4].
            scores: per level logits [B, n_l].
            deltas: per level [B, n_l, 4].
            im_shape: [B, 2] (h, w).
            fixed_slots: always give ``post_nms_top_n`` slots (training); otherwise as many as the fullest image
                needs, at least one.

        Returns:
            proposals, and their scores [B, K] in 0..1 (0 for empty slots).
        """
        boxes, per_level = [], []
        for level in range(len(anchors)):
            level_scores, picked = self._level(anchors[level], scores[level], deltas[level])
            boxes.append(picked)
            per_level.append(level_scores)
        all_boxes = clip_boxes(paddle.concat(boxes, axis=1), im_shape)
        size = all_boxes[..., 2:] - all_boxes[..., :2]
        large = (size.min(axis=-1) > self.min_size).astype("float32")  # [B, M]
        class_scores = self._spread(per_level) * large.unsqueeze(1)
        rows, number = multiclass_nms(
            all_boxes, class_scores, 0.0, self.nms_thresh, self.post_nms_top_n, self.pre_nms_top_n
        )
        return self._sorted_slots(rows, number, fixed_slots)

    def _level(self, anchors: Tensor, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, k] and decoded boxes [B, k, 4] of the best ``pre_nms_top_n`` anchors of one level."""
        scores = paddle.nn.functional.sigmoid(as_float32(logits))
        order = paddle.argsort(scores, axis=1, descending=True)[:, : self.pre_nms_top_n]
        scores = paddle.take_along_axis(scores, order, axis=1)
        picked = paddle.take_along_axis(as_float32(deltas), order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        start = paddle.gather(as_float32(anchors), order.flatten()).reshape([logits.shape[0], -1, 4])
        return scores, decode_boxes(start, picked, (1.0, 1.0, 1.0, 1.0))

    @staticmethod
    def _spread(per_level: Sequence[Tensor]) -> Tensor:
        """Scores of L levels, each [B, k_l], as if levels were classes: [B, L, sum k_l], 0 off a box's own level."""
        rows = []
        for level in range(len(per_level)):
            parts = [s if i == level else paddle.zeros_like(s) for i, s in enumerate(per_level)]
            rows.append(paddle.concat(parts, axis=1))
        return paddle.stack(rows, axis=1)

    def _sorted_slots(self, rows: Tensor, number: Tensor, fixed_slots: bool) -> tuple[Proposals, Tensor]:
        """Rows (level, score, box) to slots sorted by score."""
        slots: int | Tensor = self.post_nms_top_n
        if not fixed_slots:
            slots = number.max().clip(min=1).astype("int64")
            if paddle.in_dynamic_mode():
                slots = int(slots)
        packed, valid = rows_to_slots(rows, number, slots)
        scores = packed[..., 1]
        order = paddle.argsort(scores, axis=1, descending=True)
        boxes = paddle.take_along_axis(packed[..., 2:], order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        # Scores of real rows are above zero, so sorting brings the empty slots to the end, where `valid` has them.
        return Proposals(boxes, valid), paddle.take_along_axis(scores, order, axis=1)
