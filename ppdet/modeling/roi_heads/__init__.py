"""The second stage of a detector: which head runs on which RoIs, in which order, and on which features.

A box head names the class that runs it (``roi_heads_class``):

- :class:`~ppdet.modeling.roi_heads.standard_roi_heads.StandardRoIHeads` runs one stage, as in Faster and Mask R-CNN;
- :class:`~ppdet.modeling.roi_heads.cascade_roi_heads.CascadeRoIHeads` runs the stages of a cascade;
- :class:`~ppdet.modeling.roi_heads.hybrid_task_cascade_roi_heads.HybridTaskCascadeRoIHeads` adds interleaving and
  semantic fusion.

Features of RoIs come from :class:`~ppdet.modeling.roi_heads.roi_align.RoIAlign`. What RoI heads require of the parts
that they run is declared in :mod:`ppdet.modeling.roi_heads.parts`.
"""

from ppdet.modeling.roi_heads.cascade_roi_heads import CascadeRoIHeads
from ppdet.modeling.roi_heads.hybrid_task_cascade_roi_heads import HybridTaskCascadeRoIHeads
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.roi_heads.roi_heads import RoIHeads
from ppdet.modeling.roi_heads.standard_roi_heads import StandardRoIHeads

__all__ = ["CascadeRoIHeads", "HybridTaskCascadeRoIHeads", "RoIAlign", "RoIHeads", "StandardRoIHeads"]
