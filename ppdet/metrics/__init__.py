"""Evaluation of predictions: COCO's average precision of boxes and masks."""

from ppdet.metrics.coco import COCOMetric

__all__ = ["COCOMetric"]
