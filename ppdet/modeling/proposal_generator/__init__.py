"""Region proposals: anchors, the network that scores them, and the selection of proposals."""

from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
from ppdet.modeling.proposal_generator.rpn_head import RPNHead

__all__ = ["AnchorGenerator", "ProposalGenerator", "RPNHead"]
