"""The feature maps that RoI heads pool from."""

from __future__ import annotations

from dataclasses import dataclass, field

from paddle import Tensor

from ppdet import ext_op

__all__ = ["Features"]


@dataclass
class Features:
    """Feature maps of a batch.

    Attributes:
        pyramid: P2..P6, each [B, C, H / stride, W / stride].
        semantic: [B, C, H / 8, W / 8] of the semantic branch, or None without a branch.
    """

    pyramid: list[Tensor]
    semantic: Tensor | None = None
    _channels_last: dict[int | None, Tensor] = field(default_factory=dict)

    def pyramid_channels_last(self, levels: slice) -> list[Tensor]:
        """Return the chosen levels as [B, h, w, C]."""
        return [self._transposed(level) for level in range(len(self.pyramid))[levels]]

    def semantic_channels_last(self) -> Tensor:
        """Return the semantic feature map as [B, h, w, C]."""
        return self._transposed(None)

    def _transposed(self, level: int | None) -> Tensor:
        if level not in self._channels_last:
            feature = self.semantic if level is None else self.pyramid[level]
            assert feature is not None
            self._channels_last[level] = ext_op.channels_last(feature)
        return self._channels_last[level]
