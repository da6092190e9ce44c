"""Training anchors of a region proposal network (Faster R-CNN, section 3.1.2)."""

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
    """What the anchors learn.

    Attributes:
        positives: [B, N] bool, drawn positives.
        negatives: [B, N] bool, drawn negatives.
        boxes: [B, N, 4] float32, the matched object's box; meaningful for positives only.
    """

    positives: Tensor
    negatives: Tensor
    boxes: Tensor


def inside_image(anchors: Tensor, im_shape: Tensor, allowed_border: float, size_divisor: int = 32) -> Tensor:
    """Which anchors may take part in training.

    Whatever the border, an anchor's centre has to lie in the image padded to a multiple of ``size_divisor`` by itself:
    padding that an image has from a larger one in its batch does not train.

    Args:
        anchors: [N, 4].
        im_shape: [B, 2] (h, w) of each image, unpadded.
        allowed_border: how far an anchor may reach over the border in pixels; negative: any distance.
        size_divisor: what a single image is padded to a multiple of.

    Returns:
        [B, N] bool.
    """
    anchors, im_shape = as_float32(anchors), as_float32(im_shape)
    height, width = im_shape[:, :1], im_shape[:, 1:]
    x1, y1, x2, y2 = (anchors[:, i].unsqueeze(0) for i in range(4))
    if allowed_border < 0:
        # Centres lie on the grid of the strides; half a pixel keeps rounding away from the comparison.
        right, bottom = (paddle.ceil(side / size_divisor) * size_divisor - 0.5 for side in (width, height))
        return paddle.logical_and((x1 + x2) / 2 < right, (y1 + y2) / 2 < bottom)
    low = paddle.logical_and(x1 >= -allowed_border, y1 >= -allowed_border)
    high = paddle.logical_and(x2 < width + allowed_border, y2 < height + allowed_border)
    return paddle.logical_and(low, high)


@register
class RPNTargetAssign:
    """Match anchors with ground truth and draw those to train on.

    Args:
        batch_size_per_im: anchors drawn per image.
        fg_fraction: largest share of positives among them.
        positive_overlap: IoU from which an anchor is positive.
        negative_overlap: IoU below which it is negative; each object also claims the anchors that tie for its best
            IoU if that reaches this value.
        use_random: draw at random; otherwise the first ones are taken.
        allowed_border: see :func:`inside_image`. 0 in HTC and Cascade R-CNN, -1 in Mask R-CNN.
    """

    def __init__(
        self,
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
        """Draw the anchors of a batch.

        Args:
            anchors: [N, 4] xyxy, input pixels, all levels.
            im_shape: [B, 2] (h, w).
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
