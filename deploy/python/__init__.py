"""Prediction with an exported folder: Paddle Inference, NumPy and OpenCV alone."""

from deploy.common.detections import Detections
from deploy.python.predictor import Predictor

__all__ = ["Detections", "Predictor"]
