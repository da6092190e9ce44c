"""Datasets, the sources of samples."""

from ppdet.data.source.coco import COCODataSet
from ppdet.data.source.field_reader import FieldReader
from ppdet.data.source.image_folder import ImageFolder

__all__ = ["COCODataSet", "FieldReader", "ImageFolder"]
