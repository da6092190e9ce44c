"""Objects of which nothing is left in float32, after clipping, scaling or mirroring, do not reach a loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdet.data.transform.functional.geometry import flip_boxes, scale_boxes
from ppdet.structures.batch import Batch
from tests.modeling.small_htc import small_htc

SIZE = (96, 128)


def _mirrored_to_nothing() -> np.ndarray:
    """A box that reaches a millionth of a pixel into the image, which the other border is too coarse for."""
    box = scale_boxes(np.float32([[-20.0, 10.0, 1e-6, 60.0]]), (1.0, 1.0), SIZE)
    assert box[0, 2] > box[0, 0]
    return flip_boxes(box, SIZE[1])[0]


EMPTY = {
    "clipped": scale_boxes(np.float32([[128.0, 10.0, 140.0, 60.0]]), (1.0, 1.0), SIZE)[0],
    "mirrored": _mirrored_to_nothing(),
    "a point": np.float32([5.0, 5.0, 5.0, 5.0]),
    "turned": np.float32([60.0, 10.0, 20.0, 50.0]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_box_is_no_object(name: str) -> None:
    boxes = paddle.to_tensor(np.stack([EMPTY[name], np.float32([10, 10, 40, 50])])[None])
    image = {"image": paddle.zeros([1, 3, *SIZE]), "im_shape": paddle.to_tensor([SIZE], dtype="float32")}
    inputs = {**image, "gt_bbox": boxes, "gt_class": paddle.zeros([1, 2])}
    for more, wanted in (({}, [[False, True]]), ({"gt_valid": paddle.to_tensor([[1.0, 0.0]])}, [[False, False]])):
        targets = Batch.from_inputs({**inputs, **more}, training=True).targets
        assert targets is not None and targets.valid.tolist() == wanted


def test_losses_and_gradients_are_those_without_the_object(repo_root: Path) -> None:
    model, batch = small_htc(repo_root)
    found = []
    for valid in (1.0, 0.0):
        boxes = batch["gt_bbox"].numpy()
        boxes[:, 1] = EMPTY["mirrored"]
        inputs = {**batch, "gt_bbox": paddle.to_tensor(boxes), "gt_valid": paddle.to_tensor([[1.0, valid]] * 2)}
        losses = model(inputs)
        losses["loss"].backward()
        gradients = [value.grad.numpy() for value in model.parameters() if value.grad is not None]
        model.clear_gradients()
        found.append(({name: float(value) for name, value in losses.items()}, gradients))
    (losses, gradients), (without, other) = found
    assert losses == pytest.approx(without, rel=1e-6) and np.isfinite(list(losses.values())).all()
    for one, another in zip(gradients, other):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, another, atol=1e-5 * max(1e-3, float(np.abs(another).max())))
