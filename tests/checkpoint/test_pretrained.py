"""What a training takes from the weights of a relative: small twins of the published models, written and loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet.checkpoint.weights import load_pretrained, load_weights, state_arrays, write_state
from ppdet.core.workspace import create
from ppdet.utils.errors import UserError
from tests.configs.test_zoo import SMALL, load

HTC = "htc/htc_r50_fpn_1x_coco.yml"
CASCADE = "cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml"
MASK = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml"
PLAIN = "htc/htc_without_semantic_r50_fpn_1x_coco.yml"


def build(name: str, seed: int, resnet: dict[str, Any] | None = None, **changes: Any) -> nn.Layer:
    """A small model of that configuration, drawn with a seed."""
    config = load(name, **{**SMALL, "ResNet": {**SMALL["ResNet"], **(resnet or {})}, **changes})
    paddle.seed(seed)
    return create(config, config.architecture)


def start(target: nn.Layer, source: nn.Layer, folder: Path, caplog: pytest.LogCaptureFixture) -> tuple[set[str], str]:
    """Start ``target`` from the weights of ``source``; returns the names of the tensors that it took, and the log."""
    write_state(state_arrays(source), folder / "source")
    before = state_arrays(target)
    caplog.set_level("INFO")
    caplog.clear()
    load_pretrained(target, folder / "source")
    wanted, after = state_arrays(source), state_arrays(target)
    taken = {name for name in after if name in wanted and np.array_equal(after[name], wanted[name])}
    for name in set(after) - taken:
        np.testing.assert_array_equal(after[name], before[name])
    return taken, caplog.text


@pytest.mark.parametrize(
    ("target", "source", "counts", "unused"),
    [
        (HTC, CASCADE, "neck 16 of 16, rpn_head 6 of 6, bbox_head 24 of 24, mask_head 18 of 22, semantic 0 of 16", ""),
        (CASCADE, HTC, "bbox_head 24 of 24, mask_head 18 of 18", "mask_head (4 tensors), semantic (16 tensors)"),
        (HTC, PLAIN, "mask_head 22 of 22, semantic 0 of 16", ""),
        (PLAIN, HTC, "mask_head 22 of 22", "semantic (16 tensors)"),
        (MASK, HTC, "rpn_head 6 of 6, bbox_head 0 of 8, mask_head 0 of 6", "bbox_head (24 tensors)"),
        (HTC, MASK, "rpn_head 6 of 6, bbox_head 0 of 24, mask_head 0 of 22", "bbox_head (8 tensors)"),
    ],
)
def test_relatives(
    target: str, source: str, counts: str, unused: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(target, 1)
    taken, log = start(model, build(source, 2), tmp_path, caplog)
    names = set(state_arrays(model))
    assert {name for name in names if name.startswith(("backbone.", "neck.", "rpn_head."))} <= taken
    assert counts in log and "backbone 105 of 105" in log
    assert bool(unused) == ("not used from" in log) and unused in log
    total = re.search(r"loaded (\d+) of (\d+) tensors", log)
    assert total is not None and int(total[2]) == len(names)
    assert int(total[1]) == sum(int(number) for number in re.findall(r"\w+ (\d+) of \d+(?=,|\n)", log))


def test_deformable_from_plain_starts_as_the_plain_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = build(HTC, 2), build(HTC, 1, {"dcn_v1_stages": [1, 2, 3]})
    _, log = start(target, source, tmp_path, caplog)
    assert "backbone 105 of 117" in log and "backbone.res3.res3a.branch2b.conv_offset" in log
    image = paddle.rand([1, 3, 64, 64])
    source.eval()
    target.eval()
    for one, other in zip(source.backbone(image), target.backbone(image)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)
    # the same from a backbone alone, and from modulated to unmodulated and back
    write_state(state_arrays(source.backbone), tmp_path / "imagenet")
    load_pretrained(build(HTC, 1, {"dcn_v1_stages": [1, 2, 3]}), tmp_path / "imagenet")
    start(build(HTC, 1, {"dcn_v2_stages": [1]}), target, tmp_path, caplog)
    _, log = start(build(HTC, 1), target, tmp_path, caplog)
    assert "not used from" in log and "backbone (12 tensors)" in log
    with pytest.raises(UserError, match=r"source.* this model has no backbone\.res3\.res3a\.branch2b\.conv_offset"):
        load_weights(build(HTC, 1), tmp_path / "source")


@pytest.mark.parametrize(
    ("theirs", "ours", "blocks"),
    [
        ({"depth": 34}, {"depth": 18}, "3-4-6-3 residual blocks, the model's 2-2-2-2"),
        ({"depth": 18}, {"depth": 34}, "2-2-2-2 residual blocks, the model's 3-4-6-3"),
        ({"depth": 18, "ch_in": 16}, {"depth": 18}, r"0 of 105 tensors fit"),
        ({"depth": 18, "variant": "d"}, {"depth": 18}, r"lacks backbone\.conv1\.conv1\.conv\.weight"),
    ],
)
def test_another_backbone_is_refused(theirs: dict[str, Any], ours: dict[str, Any], blocks: str, tmp_path: Path) -> None:
    model = build(HTC, 1, ours)
    before = state_arrays(model)
    for arrays in (state_arrays(build(HTC, 2, theirs)), state_arrays(build(HTC, 2, theirs).backbone)):
        write_state(arrays, tmp_path / "other")
        with pytest.raises(UserError, match=f"does not hold this model's backbone: .*{blocks}") as caught:
            load_pretrained(model, tmp_path / "other")
        assert len(str(caught.value)) < 700 + len(str(tmp_path)) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not fit the model"):
        load_weights(model, tmp_path / "other")
    assert all(np.array_equal(before[name], array) for name, array in state_arrays(model).items())


def test_a_deeper_backbone_that_has_every_tensor_is_refused_in_an_evaluation(tmp_path: Path) -> None:
    write_state(state_arrays(build(HTC, 2, {"depth": 34})), tmp_path / "deep")
    with pytest.raises(UserError, match="3-4-6-3 residual blocks, the model's 2-2-2-2; this model has no backbone"):
        load_weights(build(HTC, 1), tmp_path / "deep")


def test_less_than_the_backbone_is_refused(tmp_path: Path) -> None:
    arrays = state_arrays(build(HTC, 2))
    heads = {name: array for name, array in arrays.items() if not name.startswith("backbone.")}
    write_state(heads, tmp_path / "heads")
    with pytest.raises(UserError, match="0 of 105 tensors fit; it lacks backbone"):
        load_pretrained(build(HTC, 1), tmp_path / "heads")
    arrays.pop("backbone.res4.res4a.branch2a.norm._mean")
    write_state(arrays, tmp_path / "damaged")
    with pytest.raises(
        UserError, match=r"104 of 105 tensors fit; it lacks backbone\.res4\.res4a\.branch2a\.norm\._mean;"
    ):
        load_pretrained(build(HTC, 1), tmp_path / "damaged")
