"""Resizing of feature maps in a graph under oneDNN, where it is expressed in other operators than in eager mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn
from paddle.static import InputSpec

from ppdet.export.exporter import save_graph
from ppdet.modeling.ops.resize import resize_bilinear, resize_nearest_like
from tests.export.test_exporter import open_graph, outputs_of


class _Resized(nn.Layer):
    """A convolution, which leaves its output in oneDNN's own layout, and a resizing of it."""

    def __init__(self, resize: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.resize = resize
        self.conv = nn.Conv2D(4, 4, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """[B, 4, h, w] in the size of the second input."""
        return self.resize(self.conv(inputs[0]), inputs[1])


@pytest.mark.parametrize("resize", [resize_bilinear, resize_nearest_like])
def test_every_size_as_in_eager_mode(resize: Callable[[Tensor, Tensor], Tensor], tmp_path: Path) -> None:
    net = _Resized(resize)
    specs = [InputSpec([None, 4, None, None], "float32", name) for name in ("x", "like")]
    save_graph(net, specs, tmp_path)
    predictor = open_graph(tmp_path, onednn=True)
    rng = np.random.default_rng(0)
    for batch, *sizes in itertools.product((1, 2), (1, 2, 5), (1, 2, 5), (1, 4, 8), (1, 4, 8)):
        x = rng.normal(size=(batch, 4, *sizes[:2])).astype("float32")
        like = np.zeros((batch, 4, *sizes[2:]), np.float32)
        (found,) = outputs_of(predictor, {"x": x, "like": like})
        with paddle.no_grad():
            wanted = net([paddle.to_tensor(x), paddle.to_tensor(like)]).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=f"{x.shape} to {like.shape}")
