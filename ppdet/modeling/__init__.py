"""Models and their parts; importing this package registers them all."""

from ppdet.modeling import (
    architectures,
    assigners,
    backbones,
    heads,
    necks,
    post_process,
    proposal_generator,
    roi_heads,
)

__all__ = [
    "architectures",
    "assigners",
    "backbones",
    "heads",
    "necks",
    "post_process",
    "proposal_generator",
    "roi_heads",
]
