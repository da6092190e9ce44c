"""Transforms of one sample, with PaddleDetection's names and keys.

Each is called with the sample and a random generator. Geometric ones draw their parameters and leave the rest to
`Sample.transform`, which applies them to the image and to all fields that have coordinates.
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
    """Read the image, rasterise the segmentations, and read or make the semantic map, all at the original size.

    Crowd objects are then removed, because they are not trained on.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Set image, masks and semantic map."""
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
    """Resize to a fixed size.

    Args:
        target_size: [short side, long side] with ``keep_ratio``, otherwise [height, width]; a single number stands for
            both.
        keep_ratio: keep the aspect ratio and fit the image into ``target_size``.
        interp: OpenCV interpolation; 1 is bilinear, as in the official implementation.
    """

    def __init__(self, target_size: _Size | Side, keep_ratio: bool = True, interp: _Interp = 1) -> None:
        self.target_size = _pair(target_size)
        self.keep_ratio = keep_ratio
        self.interp = interp

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Resize one sample."""
        return self._resized(sample, self.target_size)

    def size(self, sample: Sample, target: Sequence[int]) -> tuple[int, int]:
        """Return the new size (h, w) of a sample."""
        if not self.keep_ratio:
            return int(target[0]), int(target[1])
        height, width = sample.pixels().shape[:2]
        return keep_ratio_size(height, width, target)

    def _resized(self, sample: Sample, target: Sequence[int]) -> Sample:
        sample.transform(Scale(sample.pixels().shape, self.size(sample, target), self.interp))
        return sample


@register
class RandomResize(Resize):
    """Resize to a random size.

    Args:
        target_size: list of [short side, long side], one of which is drawn; with ``random_range`` two of them: short
            and long side are drawn as integers between theirs, both ends included.
        keep_ratio: see :class:`Resize`.
        interp: see :class:`Resize`.
        random_range: draw from a range (the official multi-scale training: [[400, 1600], [1400, 1600]]).
        random_size: False always takes the first size (PaddleDetection's key).
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
                "{0} has {count} sizes, but {1} draws between two: give exactly two",
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
    """Mirror left to right at random.

    Args:
        prob: probability.
    """

    def __init__(self, prob: Fraction = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mirror the sample or return it unchanged."""
        if rng.random() >= self.prob:
            return sample
        sample.transform(HorizontalFlip(sample.pixels().shape))
        return sample


@register
class NormalizeImage:
    """Compute (value - mean) / std for each channel (RGB).

    Args:
        mean: mean of each channel.
        std: standard deviation of each channel.
        is_scale: divide the values by 255 first; mean and std then refer to 0..1.
        norm_type: ``mean_std``, or ``none`` for no mean and standard deviation.
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
    """Transpose [H, W, 3] to [3, H, W]."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Transpose the image of one sample."""
        sample.image = np.ascontiguousarray(sample.pixels().transpose(2, 0, 1))
        return sample


def _pair(size: Sequence[int] | int) -> tuple[int, int]:
    """Return two sides; a single number stands for both."""
    sides = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    return sides[0], sides[1]
