"""Datasets, the sources of samples."""

from ppdet.data.source.coco import COCODataSet
from ppdet.data.source.image_folder import ImageFolder

__all__ = ["COCODataSet", "ImageFolder"]
