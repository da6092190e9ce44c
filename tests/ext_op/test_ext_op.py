"""The C++ extension against Paddle's own RoIAlign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.static import InputSpec

from deploy.common import ext_library
from ppdet import ext_op
from ppdet.core.switches import switched
from ppdet.export.exporter import save_graph
from ppdet.modeling.layers import ConvReLU
from ppdet.modeling.ops.roi_align import pyramid_roi_align
from ppdet.modeling.roi_heads.roi_align import RoIAlign
from ppdet.modeling.roi_heads.roi_pooler import RoIPooler
from ppdet.structures.features import Features
from ppdet.utils.errors import UserError
from tests.export.test_exporter import run

SCALES = [1 / 4, 1 / 8, 1 / 16]


@pytest.fixture
def in_use(built_extension: Path):
    ext_op.require()
    with switched(extension=True):
        yield


def scene(count: int = 60) -> tuple[list[paddle.Tensor], paddle.Tensor, paddle.Tensor]:
    """Smooth maps of two images of 160 x 224 pixels, and RoIs of all sizes, some over the border or without area."""
    rng = np.random.default_rng(0)
    maps = []
    for scale in SCALES:
        y, x = np.mgrid[: int(160 * scale), : int(224 * scale)] / scale
        waves = rng.uniform(-0.05, 0.05, (2, 9, 3))
        maps.append(np.sin(np.einsum("bc,hw->bchw", waves[..., 0], y) + np.einsum("bc,hw->bchw", waves[..., 1], x)))
    centre, size = rng.uniform(0, 1, (count, 2)) * [224, 160], np.exp(rng.normal(3.5, 1.2, (count, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    boxes[3] = [20, 30, 20, 60]
    boxes[4] = [500, 500, 540, 540]
    features = [paddle.to_tensor(one.astype(np.float32)) for one in maps]
    return features, paddle.to_tensor(boxes.astype(np.float32)), paddle.to_tensor([count - 20, 20], dtype="int32")


@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("average", [1, 2])
def test_equals_paddles_operator(in_use: None, sampling_ratio: int, aligned: bool, average: int) -> None:
    features, boxes, number = scene()
    wanted = pyramid_roi_align(features, boxes, number, SCALES, 14, sampling_ratio, aligned, 28.0)
    wanted = F.avg_pool2d(wanted, average, average)
    maps = [ext_op.channels_last(feature) for feature in features]
    found = ext_op.pyramid_roi_align(
        maps, boxes, number, SCALES, 14 // average, sampling_ratio, aligned, 28.0, average
    ).numpy()
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)
    assert not found[3].any() and not found[4].any() and np.abs(found).max() > 0.9


def test_channels_last(in_use: None) -> None:
    feature = np.arange(2 * 40 * 5 * 7, dtype=np.float32).reshape(2, 40, 5, 7)
    found = ext_op.channels_last(paddle.to_tensor(feature))
    np.testing.assert_array_equal(found.numpy(), feature.transpose(0, 2, 3, 1))


def test_fused_features(in_use: None) -> None:
    features, boxes, number = scene()
    pyramid = RoIAlign(resolution=7, spatial_scale=SCALES, canonical_size=112, end_level=2)
    semantic = RoIAlign(resolution=14, spatial_scale=[SCALES[1]], end_level=0)
    both = Features(features, features[1] * 2.0)
    extract = RoIPooler(pyramid, semantic)
    with paddle.no_grad():
        found = extract(both, boxes, number)
        with switched(extension=False):
            wanted = extract(both, boxes, number)
    assert found.shape == [60, 9, 7, 7]
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=5e-6)


def test_training_goes_through_paddles_operator(in_use: None) -> None:
    features, boxes, number = scene()
    features[0].stop_gradient = False
    extract = RoIPooler(RoIAlign(resolution=7, spatial_scale=SCALES, canonical_size=112, end_level=2), None)
    extract(Features(features), boxes, number).sum().backward()
    assert features[0].grad is not None and float(features[0].grad.abs().sum()) > 1.0


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (14, 14), (23, 37)])
def test_convolution(in_use: None, size: tuple[int, int], relu: bool) -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = (
        paddle.to_tensor(rng.normal(scale=scale, size=shape).astype(np.float32))
        for scale, shape in ((1.0, (2, 20, *size)), (0.1, (17, 20, 3, 3)), (1.0, (17,)))
    )
    wanted = F.conv2d(x.astype("float64"), weight.astype("float64"), bias.astype("float64"), padding=1).numpy()
    found = ext_op.conv3x3(x, weight, bias, relu).numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, np.maximum(wanted, 0) if relu else wanted, atol=1e-5 * np.abs(wanted).max())


def test_which_layers_are_convolved_by_the_extension() -> None:
    fit = {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1}
    assert ext_op.can_convolve(nn.Conv2D(**fit))
    assert ext_op.can_convolve(nn.Conv2D(**{**fit, "out_channels": 512}))
    for other in (
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
        {"padding": 0},
        {"kernel_size": 1},
        {"in_channels": 8},
    ):
        assert not ext_op.can_convolve(nn.Conv2D(**{**fit, **other}))


def test_layers_in_prediction_and_in_training(in_use: None) -> None:
    layer = ConvReLU(16, 16, 3)
    x = paddle.to_tensor(np.random.default_rng(2).normal(size=(1, 16, 9, 10)).astype(np.float32))
    trained = layer(x)
    trained.sum().backward()
    assert layer.conv.weight.grad is not None
    with paddle.no_grad():
        predicted = layer(x)
    assert 0 < np.abs(predicted.numpy() - trained.numpy()).max() < 1e-4  # another algorithm, other rounding


class Tower(nn.Layer):
    """Convolutions that the extension takes over, between some that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvReLU(3, 128, 1), ConvReLU(128, 130, 3), ConvReLU(130, 200, 3), ConvReLU(200, 7, 1)
        )

    def forward(self, inputs: list[paddle.Tensor]) -> paddle.Tensor:
        """[B, 3, h, w] -> [B, 7, h, w]."""
        return self.layers(inputs[0])


@pytest.mark.parametrize("onednn", [False, True])
def test_convolutions_of_a_graph(in_use: None, onednn: bool, tmp_path: Path) -> None:
    paddle.seed(5)
    tower = Tower()
    save_graph(tower, [InputSpec([None, 3, None, None], "float32", "x")], tmp_path)
    graph = b"".join(file.read_bytes() for file in tmp_path.glob("model.*") if file.suffix != ".pdiparams")
    assert graph.count(b"htc_winograd_convolve") >= 2
    x = np.random.default_rng(6).normal(size=(3, 3, 18, 21)).astype(np.float32)
    found = run(tmp_path, {"x": x}, onednn)[0]
    with paddle.no_grad(), switched(extension=False):
        wanted = tower([paddle.to_tensor(x)]).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-5 * wanted.max())


def test_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ext_library, "_registered", False)
    monkeypatch.setattr(ext_library, "_HOME", tmp_path)
    with pytest.raises(UserError, match="python -m ppdet.ext_op"):
        ext_op.require()
