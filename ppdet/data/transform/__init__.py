"""Transforms of samples, and the geometric operations that they are made of."""

from ppdet.data.transform.operators import Decode, NormalizeImage, Permute, RandomFlip, RandomResize, Resize
from ppdet.data.transform.spatial import Affine, HorizontalFlip, Place, Scale

__all__ = [
    "Affine",
    "Decode",
    "HorizontalFlip",
    "NormalizeImage",
    "Permute",
    "Place",
    "RandomFlip",
    "RandomResize",
    "Resize",
    "Scale",
]
