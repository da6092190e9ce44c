"""Training anchors of a region proposal network (Faster R-CNN, 1506.01497, section 3.1.2).

Symbols: B images, N anchors, G ground-truth slots per image.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor

from ppdet.core.config.ranges import Fraction, TopN
from ppdet.core.workspace import ParameterError, register
from ppdet.modeling.assigners.matcher import match
from ppdet.modeling.assigners.sampler import sample
from ppdet.modeling.ops.boxes import pairwise_iou
from ppdet.modeling.ops.precision import as_float32
from ppdet.structures.batch import Targets

__all__ = ["AnchorTargets", "RPNTargetAssign", "inside_image"]


class AnchorTargets(NamedTuple):
    """Training targets of anchors.

    Attributes:
        positives: [B, N] bool, sampled positives.
        negatives: [B, N] bool, sampled negatives.
        boxes: [B, N, 4] float32, box of the matched object; meaningful for positives only.
    """

    positives: Tensor
    negatives: Tensor
    boxes: Tensor


def inside_image(anchors: Tensor, im_shape: Tensor, allowed_border: float, size_divisor: int = 32) -> Tensor:
    """Return which anchors take part in training.

    With a negative border the centre of an anchor must lie in the image, padded to a multiple of ``size_divisor``.
    Further padding, which the image has because of a larger one in its batch, does not take part.

    Args:
        anchors: [N, 4].
        im_shape: [B, 2] (h, w) of the unpadded images.
        allowed_border: how many pixels an anchor may reach beyond the border; negative for any distance.
        size_divisor: a single image is padded to a multiple of this.

    Returns:
        [B, N] bool.
    """
    anchors, im_shape = as_float32(anchors), as_float32(im_shape)
    height, width = im_shape[:, :1], im_shape[:, 1:]
    x1, y1, x2, y2 = (anchors[:, i].unsqueeze(0) for i in range(4))
    if allowed_border < 0:
        # Centres lie on the grid of the strides; the half pixel makes the comparison robust against rounding.
        right, bottom = (paddle.ceil(side / size_divisor) * size_divisor - 0.5 for side in (width, height))
        return paddle.logical_and((x1 + x2) / 2 < right, (y1 + y2) / 2 < bottom)
    low = paddle.logical_and(x1 >= -allowed_border, y1 >= -allowed_border)
    high = paddle.logical_and(x2 < width + allowed_border, y2 < height + allowed_border)
    return paddle.logical_and(low, high)


@register
class RPNTargetAssign:
    """Matches anchors with ground truth and samples those to train on.

    Args:
        batch_size_per_im: anchors to sample per image.
        fg_fraction: largest share of positives among them.
        positive_overlap: lowest IoU of positives.
        negative_overlap: IoU below which anchors are negative. The anchors with the highest IoU for an object are
            positive if that IoU is not lower than this value.
        use_random: sample at random; otherwise take the first anchors.
        allowed_border: see :func:`inside_image`. 0 in HTC and Cascade R-CNN, -1 in Mask R-CNN.

    Raises:
        ParameterError: ``negative_overlap`` is above ``positive_overlap``.
    """

    def __init__(
        self,
        *,
        batch_size_per_im: TopN = 256,
        fg_fraction: Fraction = 0.5,
        positive_overlap: Fraction = 0.7,
        negative_overlap: Fraction = 0.3,
        use_random: bool = True,
        allowed_border: float = 0.0,
    ) -> None:
        if negative_overlap > positive_overlap:
            raise ParameterError(
                "{0} is {negative}, above {1}, {positive}: an anchor would be positive and negative",
                "negative_overlap",
                "positive_overlap",
                negative=negative_overlap,
                positive=positive_overlap,
            )
        self.batch_size_per_im = batch_size_per_im
        self.fg_fraction = fg_fraction
        self.positive_overlap = positive_overlap
        self.negative_overlap = negative_overlap
        self.use_random = use_random
        self.allowed_border = allowed_border

    @paddle.no_grad()
    def __call__(self, anchors: Tensor, im_shape: Tensor, targets: Targets) -> AnchorTargets:
        """Sample the anchors of a batch.

        Args:
            anchors: [N, 4] xyxy of all levels, in pixels of the network input.
            im_shape: [B, 2] (h, w) of the unpadded images.
            targets: ground truth with G slots.
        """
        inside = inside_image(anchors, im_shape, self.allowed_border)
        iou = pairwise_iou(targets.boxes, anchors.unsqueeze(0))
        assigned = match(
            iou, targets.valid, inside, self.positive_overlap, self.negative_overlap, self.negative_overlap
        ).assigned
        positives, negatives = sample(assigned, self.batch_size_per_im, self.fg_fraction, self.use_random)
        index = (assigned - 1).clip(min=0).unsqueeze(-1).expand([-1, -1, 4])
        boxes = paddle.take_along_axis(as_float32(targets.boxes), index, axis=1)
        return AnchorTargets(positives, negatives, boxes)
