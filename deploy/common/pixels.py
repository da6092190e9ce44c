"""Pre-processing of images for the network: resizing, normalisation, padding."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = ["keep_ratio_size", "normalize", "pad_to", "resize_image", "round_up"]


def keep_ratio_size(height: int, width: int, target: Sequence[int]) -> tuple[int, int]:
    """Return the size (h, w) of an image after scaling it to ``target`` while keeping its aspect ratio.

    The short side becomes min(target) unless the long side would exceed max(target). Sides are rounded as in the
    official implementation: int(side * scale + 0.5), but at least one pixel.
    """
    scale = min(max(target) / max(height, width), min(target) / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: np.ndarray, size: tuple[int, int], interp: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize [H, W, 3] to ``size`` (h, w) with an OpenCV interpolation."""
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interp))


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float], is_scale: bool) -> np.ndarray:
    """Return (image - mean) / std as float32 [H, W, 3].

    Args:
        image: [H, W, 3] in 0..255.
        mean, std: values per channel, for pixels in 0..1 if ``is_scale`` and in 0..255 otherwise.
        is_scale: whether the pixels are scaled to 0..1 first.
    """
    unit = 255.0 if is_scale else 1.0
    shift = np.array(mean, np.float32) * np.float32(unit)
    factor = (1.0 / (np.array(std, np.float64) * unit)).astype(np.float32)
    return np.asarray((image.astype(np.float32) - shift) * factor, np.float32)


def round_up(size: int, stride: int) -> int:
    """Return the smallest multiple of ``stride`` (1 or more) that is greater than or equal to ``size``."""
    return -(-size // stride) * stride


def pad_to(planes: np.ndarray, size: tuple[int, int], value: float) -> np.ndarray:
    """Pad [..., H, W] on the right and at the bottom to ``size`` (h, w)."""
    height, width = planes.shape[-2:]
    padded = np.full((*planes.shape[:-2], *size), value, planes.dtype)
    padded[..., :height, :width] = planes
    return padded
