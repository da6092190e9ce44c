"""Transforms of one sample, under PaddleDetection's names and keys.

Each is called with the sample and a random generator; one draw moves image, boxes, masks and semantic map together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from deploy.common.image_io import read_image
from deploy.common.pixels import keep_ratio_size, normalize
from ppdet.core.config.ranges import Fraction, Interval, Length, OneOf, Positive, Side
from ppdet.core.workspace import ParameterError, register
from ppdet.data.transform.functional.masks import rasterize_all
from ppdet.data.transform.spatial import HorizontalFlip, Scale
from ppdet.structures.sample import Sample
from ppdet.utils.errors import UserError

__all__ = ["Decode", "NormalizeImage", "Permute", "RandomFlip", "RandomResize", "Resize"]

_Size = Annotated[Sequence[Side], Length(2, 2)]
_Interp = Annotated[int, Interval(0, 4)]


@register
class Decode:
    """Read the image, draw the outlines, read or make the semantic map, all at the original size.

    Crowd objects leave the sample afterwards: they do not train.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Fill image, masks and semantic map."""
        size = sample.orig_size
        sample.image = read_image(sample.image_path, size if min(size) > 0 else None)
        sample.orig_size = (sample.image.shape[0], sample.image.shape[1])
        sample.im_shape = sample.orig_size
        if sample.segmentations is not None:
            try:
                sample.masks = rasterize_all(sample.segmentations, *sample.orig_size)
            except ValueError as error:
                raise UserError(f"the masks of the image {sample.image_path} cannot be drawn: {error}") from error
            sample.segmentations = None
        if sample.semantic_source is not None:
            sample.semantic = sample.semantic_source.read(sample)
        if not sample.keep_masks:
            sample.masks = None
        if sample.is_crowd.any():
            sample.select(sample.is_crowd == 0)
        return sample


@register
class Resize:
    """Scale to a fixed size.

    Args:
        target_size: [short side, long side] with ``keep_ratio``, else [height, width]; one number for both.
        keep_ratio: keep the aspect ratio and fit into ``target_size``.
        interp: OpenCV interpolation; 1 = bilinear, the official one.
    """

    def __init__(self, target_size: _Size | Side, keep_ratio: bool = True, interp: _Interp = 1) -> None:
        self.target_size = _pair(target_size)
        self.keep_ratio = keep_ratio
        self.interp = interp

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize one sample."""
        return self._resized(sample, self.target_size)

    def size(self, sample: Sample, target: Sequence[int]) -> tuple[int, int]:
        """New size (h, w) of a sample."""
        if not self.keep_ratio:
            return int(target[0]), int(target[1])
        height, width = sample.pixels().shape[:2]
        return keep_ratio_size(height, width, target)

    def _resized(self, sample: Sample, target: Sequence[int]) -> Sample:
        sample.transform(Scale(sample.pixels().shape, self.size(sample, target), self.interp))
        return sample


@register
class RandomResize(Resize):
    """Scale to a size drawn anew for each sample.

    Args:
        target_size: list of [short side, long side], of which one is drawn; with ``random_range`` two of them, between
            whose short and long sides integers are drawn, both ends included.
        keep_ratio: see :class:`Resize`.
        interp: see :class:`Resize`.
        random_range: draw from a range (the official multi-scale training: [[400, 1600], [1400, 1600]]).
        random_size: False takes the first size always (PaddleDetection's key).
    """

    def __init__(
        self,
        target_size: Annotated[Sequence[_Size], Length(1, 1000)],
        keep_ratio: bool = True,
        interp: _Interp = 1,
        random_range: bool = False,
        random_size: bool = True,
    ) -> None:
        self.sizes = [_pair(size) for size in target_size]
        if random_range and len(self.sizes) != 2:
            raise ParameterError(
                "{0} has {count} sizes, but {1} draws between two: give two",
                "target_size",
                "random_range",
                count=len(self.sizes),
            )
        super().__init__(self.sizes[0], keep_ratio, interp)
        self.random_range = random_range
        self.random_size = random_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw a size and resize."""
        target = self.sizes[0]
        if self.random_range:
            ends = [sorted(pair) for pair in zip(*(sorted(size) for size in self.sizes))]
            target = (int(rng.integers(ends[0][0], ends[0][1] + 1)), int(rng.integers(ends[1][0], ends[1][1] + 1)))
        elif self.random_size:
            target = self.sizes[int(rng.integers(len(self.sizes)))]
        return self._resized(sample, target)


@register
class RandomFlip:
    """Mirror left to right.

    Args:
        prob: how often.
    """

    def __init__(self, prob: Fraction = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw, and mirror everything or nothing."""
        if rng.random() >= self.prob:
            return sample
        sample.transform(HorizontalFlip(sample.pixels().shape))
        return sample


@register
class NormalizeImage:
    """(value - mean) / std, channel by channel (RGB).

    Args:
        mean: per channel.
        std: per channel.
        is_scale: values are divided by 255 first, mean and std refer to 0..1.
        norm_type: mean_std, or none to divide only.
    """

    def __init__(
        self,
        mean: Annotated[Sequence[float], Length(3, 3)] = (0.485, 0.456, 0.406),
        std: Annotated[Sequence[Positive], Length(3, 3)] = (0.229, 0.224, 0.225),
        is_scale: bool = True,
        norm_type: Annotated[str, OneOf("mean_std", "none")] = "mean_std",
    ) -> None:
        plain = norm_type == "none"
        self.mean, self.std = ((0.0,) * 3, (1.0,) * 3) if plain else (tuple(mean), tuple(std))
        self.is_scale = is_scale

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Normalise one sample."""
        sample.image = normalize(sample.pixels(), self.mean, self.std, self.is_scale)
        return sample


@register
class Permute:
    """[H, W, 3] to [3, H, W]."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Bring the channels to the front."""
        sample.image = np.ascontiguousarray(sample.pixels().transpose(2, 0, 1))
        return sample


def _pair(size: Sequence[int] | int) -> tuple[int, int]:
    """Two sides."""
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    return sides[0], sides[1]
