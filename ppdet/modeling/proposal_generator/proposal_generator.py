"""Selection of proposals from anchors, scores and deltas (Faster R-CNN, 1506.01497, section 3.1; FPN, 1612.03144).

Symbols: B images, L levels, n_l anchors of level l, k_l of them with the highest scores, M the sum of all k_l,
N proposals per image.
"""

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
    """Suppresses boxes within each level, then keeps those with the highest scores over all levels of an image.

    Paddle's ``generate_proposals`` is not used: it removes boxes smaller than a pixel, which the authors' code keeps.

    Args:
        pre_nms_top_n: boxes of a level that take part in the suppression.
        post_nms_top_n: proposals to keep per image.
        nms_thresh: IoU above which the box with the lower score is removed.
        min_size: width and height in pixels that boxes must exceed.
        topk_after_collect: accepted for PaddleDetection's configurations. False also limits each level to
            ``post_nms_top_n`` boxes, which makes no difference: the ``post_nms_top_n`` best boxes of all levels cannot
            include more of a single one.
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
        """Select the proposals of a batch.

        Args:
            anchors: [n_l, 4] for each level.
            scores: logits [B, n_l] for each level.
            deltas: [B, n_l, 4] for each level.
            im_shape: [B, 2] (h, w) of the unpadded images.
            fixed_slots: N is ``post_nms_top_n`` (training); otherwise the largest number of proposals of an image, at
                least one.

        Returns:
            N proposals per image, sorted by score, and their scores [B, N] in 0..1, 0 for empty slots.
        """
        boxes, per_level = [], []
        for level in range(len(anchors)):
            level_scores, level_boxes = self._level(anchors[level], scores[level], deltas[level])
            boxes.append(level_boxes)
            per_level.append(level_scores)
        all_boxes = clip_boxes(paddle.concat(boxes, axis=1), im_shape)
        size = all_boxes[..., 2:] - all_boxes[..., :2]
        large = (size.min(axis=-1) > self.min_size).astype("float32")  # [B, M]
        class_scores = self._spread(per_level) * large.unsqueeze(1)
        rows, counts = multiclass_nms(
            all_boxes, class_scores, 0.0, self.nms_thresh, self.post_nms_top_n, self.pre_nms_top_n
        )
        return self._sorted_slots(rows, counts, fixed_slots)

    def _level(self, anchors: Tensor, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [B, k_l] and decoded boxes [B, k_l, 4] of the ``pre_nms_top_n`` best anchors of a level."""
        scores = paddle.nn.functional.sigmoid(as_float32(logits))
        order = paddle.argsort(scores, axis=1, descending=True)[:, : self.pre_nms_top_n]
        scores = paddle.take_along_axis(scores, order, axis=1)
        deltas = paddle.take_along_axis(as_float32(deltas), order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        boxes = paddle.gather(as_float32(anchors), order.flatten()).reshape([logits.shape[0], -1, 4])
        return scores, decode_boxes(boxes, deltas, (1.0, 1.0, 1.0, 1.0))

    @staticmethod
    def _spread(per_level: Sequence[Tensor]) -> Tensor:
        """Treat levels as classes: scores [B, k_l] of each level to [B, L, M], 0 for boxes of other levels."""
        rows = []
        for level in range(len(per_level)):
            parts = [s if i == level else paddle.zeros_like(s) for i, s in enumerate(per_level)]
            rows.append(paddle.concat(parts, axis=1))
        return paddle.stack(rows, axis=1)

    def _sorted_slots(self, rows: Tensor, counts: Tensor, fixed_slots: bool) -> tuple[Proposals, Tensor]:
        """Lay rows (level, score, box) out in slots sorted by score."""
        slots: int | Tensor = self.post_nms_top_n
        if not fixed_slots:
            slots = counts.max().clip(min=1).astype("int64")
            if paddle.in_dynamic_mode():
                slots = int(slots)
        packed, valid = rows_to_slots(rows, counts, slots)
        scores = packed[..., 1]
        order = paddle.argsort(scores, axis=1, descending=True)
        boxes = paddle.take_along_axis(packed[..., 2:], order.unsqueeze(-1).expand([-1, -1, 4]), axis=1)
        # Scores of proposals are above zero, so sorting moves the empty slots to the end, as in `valid`.
        return Proposals(boxes, valid), paddle.take_along_axis(scores, order, axis=1)
