"""Suppression, and the way from the network input back to the original image.

Symbols: B images, N boxes per image, K object classes, D detections of the whole batch.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import All, Fraction, TopN
from ppdet.core.workspace import register
from ppdet.modeling.ops.boxes import corner_factors
from ppdet.modeling.ops.nms import best_of_each_class, image_of_rows, multiclass_nms
from ppdet.modeling.ops.precision import as_float32

__all__ = ["BBoxPostProcess", "MaskPostProcess", "MultiClassNMS", "RCNNBox"]


@register
class MultiClassNMS:
    """Per-class non-maximum suppression.

    Args:
        score_threshold: boxes take part with scores strictly above it. 0.001 in HTC, 0.05 in Cascade and Mask R-CNN.
        nms_threshold: IoU above which the box with the lower score is removed.
        keep_top_k: detections to keep per image, over all classes; -1 for all.
        nms_top_k: boxes per class that take part, those with the highest scores; -1 for all, as in the authors' code.
    """

    def __init__(
        self,
        score_threshold: Fraction = 0.001,
        nms_threshold: Fraction = 0.5,
        keep_top_k: All | TopN = 100,
        nms_top_k: All | TopN = -1,
    ) -> None:
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.keep_top_k = keep_top_k
        self.nms_top_k = nms_top_k

    def __call__(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`~ppdet.modeling.ops.nms.multiclass_nms`."""
        if self.nms_top_k > 0:
            scores = best_of_each_class(scores, self.nms_top_k)
        return multiclass_nms(boxes, scores, self.score_threshold, self.nms_threshold, self.keep_top_k)


@register
class RCNNBox:
    """Decoder of PaddleDetection's configurations; here, the box heads decode their boxes.

    Its key ``prior_box_var`` becomes ``bbox_stds`` of the box head when a configuration is read, see
    :mod:`ppdet.core.config.paddledetection`.
    """


@register
class BBoxPostProcess:
    """Suppresses, sorts and scales boxes.

    Args:
        nms: the suppression.
        decode: accepted for PaddleDetection's configurations, see :class:`RCNNBox`; the box heads decode their boxes.
    """

    __inject__ = {"nms": "MultiClassNMS", "decode": None}

    def __init__(self, nms: MultiClassNMS, decode: RCNNBox | None = None) -> None:
        self.nms = nms
        self.decode = decode

    @paddle.no_grad()
    def __call__(self, boxes: Tensor, probability: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Select the detections of a batch.

        Args:
            boxes: [B, N, 4], or [B, N, K, 4] if they depend on the class, xyxy in pixels of the network input.
            probability: [B, N, K + 1], background last.
            valid: [B, N] bool, False for slots without a box.

        Returns:
            rows [D + 1, 6] (label, score, x1, y1, x2, y2) in pixels of the network input, image by image, sorted by
            score within an image; detections per image [B] int32. The last row is a spare that belongs to no image, so
            that operators which refuse empty tensors (most of Paddle 2.6) need no special case without detections.
        """
        scores = as_float32(probability)[..., :-1].transpose([0, 2, 1]) * valid.astype("float32").unsqueeze(1)
        rows, counts = self.nms(boxes, scores)
        rows = paddle.concat([rows, paddle.zeros([1, 6], dtype="float32")])
        image, _ = image_of_rows(rows, counts)
        # Sorts by image, then by score: float64 represents image * 2 - score without rounding the float32 score.
        key = image.astype("float64") * 2.0 - rows[:, 1].astype("float64")
        return paddle.gather(rows, paddle.argsort(key)), counts

    @staticmethod
    def to_original(rows: Tensor, counts: Tensor, scale_factor: Tensor) -> Tensor:
        """Scale boxes to pixels of the original image, without clipping them again.

        Args:
            rows: [D + 1, 6] from the call above.
            counts: [B] from the call above.
            scale_factor: [B, 2] (y, x), resized / original.
        """
        image, _ = image_of_rows(rows, counts)
        rows = as_float32(rows)
        return paddle.concat([rows[:, :2], rows[:, 2:] / paddle.gather(corner_factors(scale_factor), image)], axis=1)


@register
class MaskPostProcess:
    """How callers turn mask probabilities into bitmaps.

    The model returns probabilities in the frame of each box. Pasting them into the image happens outside of it.

    Args:
        binary_thresh: lowest probability of a pixel that belongs to the object.
    """

    def __init__(self, binary_thresh: Fraction = 0.5) -> None:
        self.binary_thresh = binary_thresh
