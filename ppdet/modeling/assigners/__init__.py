"""Assignment of ground truth to anchors, RoIs and mask maps."""

from ppdet.modeling.assigners.bbox_assigner import BBoxAssigner
from ppdet.modeling.assigners.mask_assigner import MaskAssigner
from ppdet.modeling.assigners.rpn_assigner import RPNTargetAssign

__all__ = ["BBoxAssigner", "MaskAssigner", "RPNTargetAssign"]
