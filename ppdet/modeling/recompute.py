"""Activations that are computed again in the backward pass instead of being stored (1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

__all__ = ["recomputed"]


def recomputed(layer: nn.Layer, x: Tensor) -> Tensor:
    """Return ``layer(x)`` and store only ``x`` for the backward pass, which runs the layer a second time.

    Args:
        layer: must not draw random numbers. Its batch normalisations may train: the second pass does not update their
            running statistics.
        x: input; it may have no gradient itself, as behind frozen stages.
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

    # Paddle warns at every call in which no input needs a gradient, although the weights of the layer may need one.
    with_gradient = paddle.zeros([1])
    with_gradient.stop_gradient = False
    # The reentrant implementation would give the weights no gradient if the input has none.
    result: Tensor = recompute(run, x, with_gradient, use_reentrant=False, preserve_rng_state=False)
    return result


@contextmanager
def _statistics_kept(layer: nn.Layer) -> Iterator[None]:
    """Keep the running statistics of batch normalisation while it normalises by the batch."""
    norms = [part for part in layer.sublayers(include_self=True) if isinstance(part, nn.layer.norm._BatchNormBase)]
    momenta = [norm._momentum for norm in norms]
    try:
        for norm in norms:
            norm._momentum = 1.0  # the weight of the previous statistics
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm._momentum = momentum
