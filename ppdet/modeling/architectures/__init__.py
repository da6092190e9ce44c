"""Complete models."""

from ppdet.modeling.architectures.hybrid_task_cascade import HybridTaskCascade
from ppdet.modeling.architectures.rcnn import CascadeRCNN, FasterRCNN, MaskRCNN

__all__ = ["CascadeRCNN", "FasterRCNN", "HybridTaskCascade", "MaskRCNN"]
