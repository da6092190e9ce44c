"""Gradient clipping by the global norm for optimizers with parameter groups."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

__all__ = ["ClipByNormOfAll"]


class ClipByNormOfAll(nn.ClipGradByGlobalNorm):
    """Scales gradients by clip_norm / max(norm, clip_norm), where norm is the norm over all parameters.

    Paddle's optimizers clip each parameter group separately, so that ``ClipGradByGlobalNorm`` would use the norm of the
    group only.

    Args:
        clip_norm: maximum norm.
        parameters: parameters of all groups.
    """

    def __init__(self, clip_norm: float, parameters: Sequence[Tensor]) -> None:
        super().__init__(clip_norm)
        self.parameters = list(parameters)

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs with clipped gradients; the gradients stored in the parameters are not modified."""
        gradients = [parameter.grad for parameter in self.parameters]
        squares = [gradient.astype("float32").square().sum() for gradient in gradients if gradient is not None]
        if not squares:
            return list(params_grads)
        factor = self.clip_norm / paddle.stack(squares).sum().sqrt().clip(min=self.clip_norm)
        return [(parameter, gradient * factor.astype(gradient.dtype)) for parameter, gradient in params_grads]
