"""Evaluation of predictions: COCO's average precision of boxes and masks."""

from ppdet.metrics.coco import COCOMetric
from ppdet.metrics.metric import Metric

__all__ = ["COCOMetric", "Metric"]
