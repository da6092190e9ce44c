"""Complete models."""

from ppdet.modeling.architectures.architecture import Architecture, InputField
from ppdet.modeling.architectures.hybrid_task_cascade import HybridTaskCascade
from ppdet.modeling.architectures.rcnn import CascadeRCNN, FasterRCNN, MaskRCNN

__all__ = ["Architecture", "CascadeRCNN", "FasterRCNN", "HybridTaskCascade", "InputField", "MaskRCNN"]
