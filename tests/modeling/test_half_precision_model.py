"""A training step of HTC in mixed precision, as far as a CPU can have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import Tensor, nn
from paddle.base import core, framework

from tests.modeling.small_htc import small_htc

pytestmark = pytest.mark.parametrize("kind", ["float16", "bfloat16"])

Forward = Callable[[Any, Tensor], Tensor]


@contextmanager
def emulated_auto_cast(kind: str) -> Iterator[None]:
    """Automatic mixed precision as a GPU has it, as far as a CPU can have it.

    Convolutions and linear layers take in and give half precision (they compute in float32, which has the kernels);
    everything else goes by the tracer's own rules of level O1.
    """
    tracer = framework._dygraph_tracer()
    saved = tracer._amp_level, tracer._amp_dtype
    originals: dict[type[nn.Layer], Forward] = {}

    def low(original: Forward) -> Forward:
        def forward(layer: Any, x: Tensor) -> Tensor:
            return original(layer, x.astype(kind).astype("float32")).astype(kind)

        return forward

    for layer in (nn.Conv2D, nn.Conv2DTranspose, nn.Linear):
        originals[layer] = layer.forward
        layer.forward = low(layer.forward)  # type: ignore[method-assign]
    tracer._amp_level, tracer._amp_dtype = core.AmpLevel.O1, kind
    try:
        yield
    finally:
        tracer._amp_level, tracer._amp_dtype = saved
        for layer, forward in originals.items():
            layer.forward = forward  # type: ignore[method-assign]


def check_losses(model: nn.Layer, losses: dict[str, Tensor], exact: dict[str, float]) -> None:
    """Float32, near the exact ones (rounding moves proposals, so that stages see other boxes), gradients everywhere."""
    assert {value.dtype for value in losses.values()} == {paddle.float32} and losses.keys() == exact.keys()
    for name in ("loss_rpn_cls", "loss_semantic", "loss_bbox_cls_stage0", "loss"):
        assert float(losses[name]) == pytest.approx(exact[name], rel=0.03), name
    assert float(losses["loss"]) != exact["loss"]
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:  # statistics of batch normalisation
            continue
        assert parameter.grad is not None and parameter.grad.dtype == paddle.float32, name
        assert bool(paddle.isfinite(parameter.grad).all()), name


def test_small_htc_under_emulated_auto_cast(kind: str, repo_root: Path) -> None:
    model, batch = small_htc(repo_root)
    exact = {name: float(value) for name, value in model(batch).items()}
    types: list[Any] = []
    model.neck.register_forward_post_hook(lambda layer, inputs, out: types.extend(x.dtype for x in out[:4]))
    with emulated_auto_cast(kind):
        losses = model(batch)
    assert set(types) == {paddle.float16 if kind == "float16" else paddle.bfloat16}
    check_losses(model, losses, exact)


def test_small_htc_with_half_precision_at_every_border(kind: str, repo_root: Path) -> None:
    """Pyramid, semantic branch and all outputs of the heads in half precision, without anybody's rules of casting."""
    model, batch = small_htc(repo_root)
    exact = {name: float(value) for name, value in model(batch).items()}

    def cast(out: Any, to: str) -> Any:
        if isinstance(out, Tensor):
            return out.astype(to)
        return type(out)(*(x.astype(to) for x in out)) if hasattr(out, "_fields") else [x.astype(to) for x in out]

    def lower(layer: nn.Layer) -> None:
        layer.register_forward_post_hook(lambda _, inputs, out: cast(out, kind))

    for part in (model.rpn_head.rpn_feat, model.fused_semantic_head):
        part.register_forward_pre_hook(lambda _, inputs: tuple(cast(x, "float32") for x in inputs))
    outputs = [layer for name, layer in model.bbox_head.named_sublayers() if name.startswith("bbox_")]
    assert len(outputs) == 6
    for layer in (model.neck, model.fused_semantic_head, model.rpn_head.rpn_rois_score, model.rpn_head.rpn_rois_delta):
        lower(layer)
    for layer in outputs:
        lower(layer)
    check_losses(model, model(batch), exact)
