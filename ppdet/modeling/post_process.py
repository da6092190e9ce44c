"""From the heads' outputs to detections in original pixels."""

from __future__ import annotations

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import All, BoxWeights, Fraction, TopN
from ppdet.core.workspace import register
from ppdet.modeling.ops.nms import best_of_each_class, image_of_rows, multiclass_nms
from ppdet.modeling.ops.precision import as_float32

__all__ = ["BBoxPostProcess", "MaskPostProcess", "MultiClassNMS", "RCNNBox"]


def _by_corner(scale_factor: Tensor) -> Tensor:
    """[B, 2] (y, x) -> [B, 4] (x, y, x, y)."""
    scale_factor = as_float32(scale_factor)
    y, x = scale_factor[:, 0], scale_factor[:, 1]
    return paddle.stack([x, y, x, y], axis=1)


@register
class MultiClassNMS:
    """Per-class non-maximum suppression.

    Args:
        score_threshold: only scores strictly above it take part. 0.001 in HTC, 0.05 in Cascade and Mask R-CNN.
        nms_threshold: IoU above which the lesser box goes.
        keep_top_k: detections kept per image, over all classes; -1 for all.
        nms_top_k: candidates of a class that take part, the best by score; -1 for all, as the authors have it.
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
    """How PaddleDetection's configs say what the last stage's deltas are multiplied with.

    Args:
        prior_box_var: inverse stds of the last stage. The head takes them over for its training, too, so that the two
            cannot differ. None leaves the head's own.
    """

    def __init__(self, prior_box_var: BoxWeights | None = None) -> None:
        self.prior_box_var = prior_box_var


@register
class BBoxPostProcess:
    """Suppression, order and scaling of boxes.

    Args:
        nms: the suppression.
        decode: for PaddleDetection's configs, see :class:`RCNNBox`; the heads decode their boxes themselves.
    """

    __inject__ = {"nms": "MultiClassNMS", "decode": None}

    def __init__(self, nms: MultiClassNMS, decode: RCNNBox | None = None) -> None:
        self.nms = nms
        self.decode = decode

    @paddle.no_grad()
    def __call__(self, boxes: Tensor, probability: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Detections in input pixels.

        Args:
            boxes: [B, N, 4], or [B, N, K, 4] class by class, input pixels.
            probability: [B, N, K + 1], background last.
            valid: [B, N] bool.

        Returns:
            rows [D + 1, 6] (label, score, x1, y1, x2, y2), image by image, best first within an image, and their
            number per image [B] int32. The last row is an empty box that no image owns: operators that refuse empty
            tensors (all of Paddle 2.6) then need no special case when nothing is detected.
        """
        scores = as_float32(probability)[..., :-1].transpose([0, 2, 1]) * valid.astype("float32").unsqueeze(1)
        rows, number = self.nms(boxes, scores)
        rows = paddle.concat([rows, paddle.zeros([1, 6], dtype="float32")])
        image, _ = image_of_rows(rows, number)
        # Exact two-level order: float64 holds image * 2 - score without rounding the score, a float32.
        key = image.astype("float64") * 2.0 - rows[:, 1].astype("float64")
        return paddle.gather(rows, paddle.argsort(key)), number

    @staticmethod
    def to_original(rows: Tensor, number: Tensor, scale_factor: Tensor) -> Tensor:
        """Scale boxes to original pixels, without a second clip.

        Args:
            rows: [D + 1, 6] from the call above.
            number: [B].
            scale_factor: [B, 2] (y, x), resized / original.
        """
        image, _ = image_of_rows(rows, number)
        rows = as_float32(rows)
        return paddle.concat([rows[:, :2], rows[:, 2:] / paddle.gather(_by_corner(scale_factor), image)], axis=1)

    @staticmethod
    def candidates_to_original(boxes: Tensor, scale_factor: Tensor) -> Tensor:
        """Scale boxes before suppression to original pixels.

        Args:
            boxes: [B, N, 4] or [B, N, K, 4], input pixels.
            scale_factor: [B, 2] (y, x), resized / original.
        """
        return as_float32(boxes) / _by_corner(scale_factor).reshape([-1, *[1] * (len(boxes.shape) - 2), 4])


@register
class MaskPostProcess:
    """How a caller turns mask probabilities into bitmaps: pasted to the image, then compared with a threshold.

    The model itself returns probabilities in each box's frame; pasting is post-processing outside of it.

    Args:
        binary_thresh: a pixel belongs to the object from this probability on.
    """

    def __init__(self, binary_thresh: Fraction = 0.5) -> None:
        self.binary_thresh = binary_thresh
