"""Transforms of samples, and the geometric operations that they are made of."""

from ppdet.data.transform.operators import Decode, NormalizeImage, Permute, RandomFlip, RandomResize, Resize

__all__ = ["Decode", "NormalizeImage", "Permute", "RandomFlip", "RandomResize", "Resize"]
