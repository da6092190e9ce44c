"""Clipping by the norm of all gradients where parameters are in groups."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

__all__ = ["ClipByNormOfAll"]


class ClipByNormOfAll(nn.ClipGradByGlobalNorm):
    """Scales gradients by clip_norm / max(norm, clip_norm), the norm being that of every parameter's gradient.

    An optimizer of Paddle's clips each of its parameter groups by itself: the norm of ``ClipGradByGlobalNorm`` would
    be that of the group.

    Args:
        clip_norm: largest norm.
        parameters: those of all groups.
    """

    def __init__(self, clip_norm: float, parameters: Sequence[Tensor]) -> None:
        super().__init__(clip_norm)
        self.parameters = list(parameters)

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs with clipped gradients; those on the parameters themselves stay as they are."""
        gradients = [parameter.grad for parameter in self.parameters]
        squares = [gradient.astype("float32").square().sum() for gradient in gradients if gradient is not None]
        factor = self.clip_norm / paddle.stack(squares).sum().sqrt().clip(min=self.clip_norm)
        return [(parameter, gradient * factor.astype(gradient.dtype)) for parameter, gradient in params_grads]
