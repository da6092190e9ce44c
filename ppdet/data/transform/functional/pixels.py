"""Values of pixels: normalisation, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["normalize", "pad_to", "round_up"]


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float], is_scale: bool) -> np.ndarray:
    """Return (image - mean) / std as float32 [H, W, 3].

    Args:
        image: [H, W, 3] in 0..255.
        mean, std: per channel, on 0..1 values if ``is_scale``, else on 0..255.
    """
    unit = 255.0 if is_scale else 1.0
    shift = np.array(mean, np.float32) * np.float32(unit)
    factor = (1.0 / (np.array(std, np.float64) * unit)).astype(np.float32)
    return np.asarray((image.astype(np.float32) - shift) * factor, np.float32)


def round_up(size: int, stride: int) -> int:
    """Return the smallest multiple of ``stride`` (1 or more) that is not below ``size``."""
    return -(-size // stride) * stride


def pad_to(planes: np.ndarray, size: tuple[int, int], value: float) -> np.ndarray:
    """Pad [..., H, W] on the right and at the bottom to ``size`` (h, w)."""
    height, width = planes.shape[-2:]
    padded = np.full((*planes.shape[:-2], *size), value, planes.dtype)
    padded[..., :height, :width] = planes
    return padded
