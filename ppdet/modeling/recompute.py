"""Activations that are computed anew in the backward pass instead of being kept (1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

__all__ = ["recomputed"]


def recomputed(layer: nn.Layer, x: Tensor) -> Tensor:
    """``layer(x)``, of which only ``x`` is kept for the backward pass; the price is a second forward pass.

    Args:
        layer: draws no random numbers. Its batch normalisations may train: their running statistics take the batch in
            once, as the second pass leaves them alone.
        x: input; may need no gradient itself (behind frozen stages).
    """
    calls = 0

    def run(value: Tensor, _: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            result: Tensor = layer(value)
            return result
        with _statistics_kept(layer):
            return layer(value)

    # Paddle warns at every call whose inputs all come without gradient, as if the weights could not want one.
    wanting = paddle.zeros([1])
    wanting.stop_gradient = False
    # By hooks on what is saved: the other way (a node of its own in the graph) gives weights behind an input without
    # gradient none either.
    result: Tensor = recompute(run, x, wanting, use_reentrant=False, preserve_rng_state=False)
    return result


@contextmanager
def _statistics_kept(layer: nn.Layer) -> Iterator[None]:
    """Batch normalisation normalises by the batch as before, but its running statistics stay as they are."""
    norms = [part for part in layer.sublayers(include_self=True) if isinstance(part, nn.layer.norm._BatchNormBase)]
    momenta = [norm._momentum for norm in norms]
    try:
        for norm in norms:
            norm._momentum = 1.0  # the share that the old statistics keep
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm._momentum = momentum
