"""Measures of detections."""

from ppdet.metrics.coco import COCOMetric

__all__ = ["COCOMetric"]
