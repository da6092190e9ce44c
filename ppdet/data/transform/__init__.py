"""Transforms of samples."""

from ppdet.data.transform.operators import Decode, NormalizeImage, Permute, RandomFlip, RandomResize, Resize

__all__ = ["Decode", "NormalizeImage", "Permute", "RandomFlip", "RandomResize", "Resize"]
