"""Names and layouts of other implementations: every tensor accounted for, on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.checkpoint.convert import compare_states, convert_state
from ppdet.checkpoint.names.torchvision import Torchvision
from ppdet.checkpoint.weights import load_pretrained, load_weights, write_state
from ppdet.core.workspace import create, load_config
from ppdet.utils.errors import UserError
from tests.checkpoint.formats.pth_files import write_pth
from tests.full_models import full_model


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a key list."""
    table = {}
    for line in path.read_text().splitlines():
        name, _, shape = line.partition("\t")
        table[name] = tuple(int(side) for side in shape.split("\t")[0].split(",") if side.isdigit())
    return table


@pytest.fixture(scope="module")
def model() -> paddle.nn.Layer:
    """HTC R-50 of 80 classes."""
    return full_model("htc/htc_r50_fpn_1x_coco")


@pytest.fixture(scope="module")
def official(oracle: Path) -> dict[str, np.ndarray]:
    """An official checkpoint of zeros."""
    keys = shapes(oracle / "keys" / "htc_r50_fpn.tsv")
    return {name: np.zeros(shape, np.float32) for name, shape in keys.items()}


def test_official_checkpoint(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    marked = dict(official)
    name = "roi_head.bbox_head.1.fc_cls.weight"
    marked[name] = np.arange(81 * 1024, dtype=np.float32).reshape(81, 1024)
    marked["ema_steps"] = np.zeros((), np.int64)
    result = convert_state(model, {f"module.{key}": value for key, value in marked.items()})
    assert list(result.arrays) == list(model.state_dict())
    assert result.arrays["bbox_head.bbox_score_stage1.weight"][5, 7] == 7 * 1024 + 5
    assert result.sources["bbox_head.bbox_score_stage1.weight"] == f"module.{name}"
    assert len(result.sources) + len(result.left) == len(marked)
    assert result.left.pop("module.ema_steps") == "an average stored next to the weights"
    assert all(key.endswith("num_batches_tracked") for key in result.left) and len(result.left) == 53


def test_what_does_not_fit_is_named(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    less = {name: value for name, value in official.items() if name != "neck.fpn_convs.2.conv.bias"}
    with pytest.raises(UserError, match=r"lacks neck\.fpn_res4_sum\.bias;"):
        convert_state(model, less)
    other = {**official, "roi_head.mask_head.0.conv_logits.bias": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"mask_head\.head\.0\.conv_logits\.bias \[3\] instead of \[80\]"):
        convert_state(model, other)
    with pytest.raises(UserError, match=r"mmdetection 1\.x"):
        convert_state(model, {name.replace("roi_head.", ""): value for name, value in official.items()})
    deeper = {**official, "backbone.layer3.6.conv1.weight": np.zeros((256, 1024, 1, 1), np.float32)}
    with pytest.raises(UserError, match="3-4-7-3 residual blocks, the model's 3-4-6-3; this model has no backbone"):
        convert_state(model, deeper)
    extra = {**official, "rpn_head.rpn_cls.extra": np.zeros(1, np.float32)}
    assert convert_state(model, extra).left["rpn_head.rpn_cls.extra"].startswith("this model has no ")


def test_element_types_become_the_models(model: paddle.nn.Layer, official: dict[str, np.ndarray]) -> None:
    halves = {name: np.full(value.shape, 0.5, np.float16) for name, value in official.items() if value.ndim == 1}
    result = convert_state(model, {**official, **halves})
    assert {array.dtype for array in result.arrays.values()} == {np.dtype("float32")}
    assert all(array.flags.c_contiguous for array in result.arrays.values())
    assert (result.arrays["bbox_head.head.0.fc6.bias"] == 0.5).all()


def test_names_of_no_known_checkpoint(model: paddle.nn.Layer) -> None:
    with pytest.raises(UserError, match=r"an unknown architecture: its first tensor is 'encoder\.w'"):
        convert_state(model, {"encoder.w": np.zeros(1)})
    own = {name: np.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"this project's names already \(373 of"):
        convert_state(model, own)
    twice = {"backbone.conv1.weight": np.zeros(1), "module.backbone.conv1.weight": np.zeros(1)}
    with pytest.raises(UserError, match=r"both mean backbone\.conv1\.conv1\.conv\.weight"):
        convert_state(model, twice)


@pytest.fixture(scope="module")
def torchvision(official: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ResNet-50 as torchvision publishes it, every tensor filled with its own number."""
    names = [key[len("backbone.") :] for key in official if key.startswith("backbone.")]
    shapes_by_name = {name: official[f"backbone.{name}"].shape for name in names}
    shapes_by_name.update({"fc.weight": (1000, 2048), "fc.bias": (1000,)})
    return {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes_by_name.items())}


def test_torchvision_backbone(
    model: paddle.nn.Layer,
    torchvision: dict[str, np.ndarray],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = Torchvision().convert(torchvision)
    assert set(result.arrays) == {name for name in model.state_dict() if name.startswith("backbone.")}
    assert {name for name, reason in result.left.items() if "a counter" not in reason} == {"fc.weight", "fc.bias"}
    neck = model.neck.state_dict()["fpn_res2_sum.weight"].numpy().copy()
    caplog.set_level("INFO")
    load_pretrained(model, write_pth(tmp_path / "resnet50.pth", torchvision, nested=False))
    loaded = model.state_dict()
    number = list(torchvision).index("layer3.2.bn3.running_var")
    assert (loaded["backbone.res4.res4c.branch2c.norm._variance"].numpy() == number).all()
    np.testing.assert_array_equal(loaded["neck.fpn_res2_sum.weight"].numpy(), neck)
    assert "not used from" in caplog.text and "fc.weight, fc.bias" in caplog.text
    assert "backbone 265 of 265, neck 0 of 16" in caplog.text


def test_backbone_of_paddle_vision(model: paddle.nn.Layer, torchvision: dict[str, np.ndarray], tmp_path: Path) -> None:
    renamed = {
        name.replace("running_mean", "_mean").replace("running_var", "_variance"): value
        for name, value in torchvision.items()
        if not name.endswith("num_batches_tracked")
    }
    write_state({**renamed, "fc.weight": np.zeros((2048, 1000), np.float32)}, tmp_path / "resnet50")
    load_pretrained(model, tmp_path / "resnet50")
    number = list(torchvision).index("bn1.running_mean")
    assert (model.state_dict()["backbone.conv1.conv1.norm._mean"].numpy() == number).all()


def test_first_block_of_resnet_18_computes_the_same(repo_root: Path, tmp_path: Path) -> None:
    paddle.set_device("cpu")
    config = load_config(str(repo_root / "configs/htc/htc_r50_fpn_1x_coco.yml"))
    backbone = create(config, "ResNet", depth=18)
    holder = paddle.nn.Layer()
    holder.backbone = backbone
    generator = np.random.default_rng(0)
    state = {}
    published = "conv1.weight bn1.weight bn1.bias bn1.running_mean bn1.running_var".split()
    for stage in range(1, 5):
        for block in range(2):
            for part in ("conv1", "bn1", "conv2", "bn2", *(["downsample"] if stage > 1 and block == 0 else [])):
                names = {
                    "conv": ["weight"],
                    "bn": ["weight", "bias", "running_mean", "running_var"],
                    "downsample": ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
                }[part.rstrip("12")]
                published += [f"layer{stage}.{block}.{part}.{name}" for name in names]
    rename = Torchvision().renamer(published)
    for name in published:
        shape = holder.state_dict()[rename(name) or ""].shape
        state[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32) * (0.1 if len(shape) == 4 else 1.0)
    load_pretrained(holder, write_pth(tmp_path / "resnet18.pth", state, nested=False))
    backbone.eval()
    block = backbone.res2.sublayers()[0]
    x = paddle.to_tensor(generator.standard_normal((1, 64, 8, 8)).astype(np.float32))
    expected = paddle.nn.functional.relu(block.branch2b(block.branch2a(x)) + x)
    np.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_official_file_is_converted_in_memory(
    model: paddle.nn.Layer,
    official: dict[str, np.ndarray],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    state = dict(official)
    state["roi_head.bbox_head.0.fc_cls.weight"] = np.arange(81 * 1024, dtype=np.float32).reshape(81, 1024)
    file = write_pth(tmp_path / "htc.pth", state)
    load_weights(model, file)
    assert model.state_dict()["bbox_head.bbox_score_stage0.weight"][5, 7] == 7 * 1024 + 5
    assert "htc.pth has PyTorch's names: converted in memory" in caplog.text
    del state["rpn_head.rpn_conv.bias"]
    file = write_pth(tmp_path / "less.pth", state)
    with pytest.raises(UserError, match=r"less\.pth.* lacks rpn_head\.rpn_feat\.rpn_conv\.bias;"):
        load_weights(model, file)
    load_pretrained(model, file)
    assert "rpn_head 4 of 6" in caplog.text and "start as initialised: rpn_head.rpn_feat.rpn_conv" in caplog.text


def test_other_class_count(model: paddle.nn.Layer, official: dict[str, np.ndarray], tmp_path: Path) -> None:
    state = dict(official)
    for stage in range(3):
        state[f"roi_head.bbox_head.{stage}.fc_cls.weight"] = np.ones((21, 1024), np.float32)
        state[f"roi_head.bbox_head.{stage}.fc_cls.bias"] = np.ones(21, np.float32)
        state[f"roi_head.mask_head.{stage}.conv_logits.weight"] = np.ones((20, 256, 1, 1), np.float32)
        state[f"roi_head.mask_head.{stage}.conv_logits.bias"] = np.ones(20, np.float32)
    file = write_pth(tmp_path / "voc.pth", state)
    with pytest.raises(UserError, match="weights have 20 classes, num_classes is 80"):
        load_weights(model, file)
    load_pretrained(model, file)
    assert not (model.state_dict()["bbox_head.bbox_score_stage0.bias"].numpy() == 1).any()


def test_comparison() -> None:
    one = {"a": np.array([1.0, np.nan]), "b": np.zeros(2), "c": np.zeros(2), "e": np.zeros(0)}
    other = {"a": np.array([1.0, np.nan]), "b": np.array([0.0, 0.5]), "c": np.zeros((2, 1)), "d": np.zeros(1)}
    assert compare_states(one, one) == []
    assert compare_states(one, other, 0.1) == [
        "b differs by up to 0.5",
        "c has shape [2] and [2, 1]",
        "e is in the first only",
        "d is in the second only",
    ]
    assert compare_states({"b": one["b"]}, {"b": other["b"]}, 0.5) == []
    assert compare_states({"b": one["b"]}, {"b": np.array([0.0, np.nan])}, 9.0) == ["b differs by up to nan"]
