"""One training step of HTC R-50 against the official implementation: losses and the norm of every gradient.

The recording leaves nothing to chance: samplers take every candidate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from ppdet.engine.official_names import official_blocks, official_name
from ppdet.structures.proposals import Proposals
from tests.parity.conftest import Recording

EVERY = 10**6


def stacked(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of different sizes in one, zeros where they end."""
    out = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for place, array in enumerate(arrays):
        out[(place, *(slice(side) for side in array.shape))] = array
    return out


@pytest.fixture(scope="module")
def batch(htc: Recording) -> dict[str, paddle.Tensor]:
    """The scenes as a training batch."""
    scenes, size = htc.scenes, htc.inputs["image"].shape[2:]
    objects = max(len(scene["labels"]) for scene in scenes)
    semantic = np.full((len(scenes), *size), 255, np.uint8)
    for place, scene in enumerate(scenes):
        height, width = scene["semantic"].shape
        semantic[place, :height, :width] = scene["semantic"]
    arrays = {
        "gt_bbox": stacked([scene["boxes"] for scene in scenes], (objects, 4)),
        "gt_class": stacked([scene["labels"] for scene in scenes], (objects,)),
        "gt_valid": stacked([np.ones_like(scene["labels"]) for scene in scenes], (objects,)),
        "gt_segm": stacked([scene["masks"] for scene in scenes], (objects, *size)),
        "semantic": semantic.astype(np.int64),
    }
    return {**htc.inputs, **{name: paddle.to_tensor(array) for name, array in arrays.items()}}


@pytest.fixture
def model(htc: Recording, monkeypatch: pytest.MonkeyPatch) -> Iterator[paddle.nn.Layer]:
    """The model in training mode, its samplers taking everything."""
    model = htc.model
    for sampler in (model.rpn_head.rpn_target_assign, model.bbox_head.bbox_assigner):
        monkeypatch.setattr(sampler, "batch_size_per_im", EVERY)
        monkeypatch.setattr(sampler, "fg_fraction", 1.0)
    monkeypatch.setattr(model.fused_semantic_head, "loss_over_all_pixels", True)
    model.train()
    yield model
    model.eval()
    model.clear_gradients()


def recorded_losses(golden: dict[str, np.ndarray]) -> dict[str, float]:
    """Losses of the recording under this project's names."""
    names = {
        "loss_rpn_cls": "loss_rpn_cls",
        "loss_rpn_reg": "loss_rpn_bbox",
        "loss_semantic": "loss_semantic_seg",
        "loss": "total",
    }
    for stage in range(3):
        for own, theirs in (("bbox_cls", "cls"), ("bbox_reg", "bbox"), ("mask", "mask")):
            names[f"loss_{own}_stage{stage}"] = f"s{stage}.loss_{theirs}"
    return {own: float(golden[f"loss/{theirs}"]) for own, theirs in names.items()}


def test_losses_and_gradients_on_the_recorded_proposals(
    htc: Recording, model: paddle.nn.Layer, batch: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = htc.golden
    boxes = [golden["train_proposals0"], golden["train_proposals1"]]
    most = max(len(rows) for rows in boxes)
    valid = np.arange(most) < np.array([[len(rows)] for rows in boxes])
    proposals = Proposals(paddle.to_tensor(stacked(boxes, (most, 4))), paddle.to_tensor(valid))
    monkeypatch.setattr(model.rpn_head, "propose", lambda *_: (proposals, None))
    losses = model(batch)
    losses["loss"].backward()
    expected = recorded_losses(golden)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-3), name
    names = [key[len("grad_norm/") :] for key in golden if key.startswith("grad_norm/")]
    blocks = official_blocks(names)
    parameters = dict(model.named_parameters())
    trained = {name for name, parameter in parameters.items() if not parameter.stop_gradient}
    assert {official_name(name, blocks) for name in names} == trained
    for name in names:
        norm = float(np.linalg.norm(parameters[official_name(name, blocks)].grad.numpy()))
        assert norm == pytest.approx(float(golden[f"grad_norm/{name}"]), rel=1e-2), name


def test_losses_on_own_proposals(htc: Recording, model: paddle.nn.Layer, batch: dict) -> None:
    with paddle.no_grad():
        losses = model(batch)
    for name, value in recorded_losses(htc.golden).items():
        assert losses[name].item() == pytest.approx(value, rel=5e-3), name
