"""An architecture that breaks the protocol is refused in one line that names it, instead of deep in the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from ppdet.core.workspace import Config
from ppdet.engine.evaluator import predict_batch
from ppdet.engine.model_and_data import build_architecture, check_train_data
from ppdet.export.exporter import save_graph
from ppdet.export.nets import ExportNet
from ppdet.modeling.architectures.architecture import IMAGE_FIELDS, Architecture, InputField
from ppdet.structures.batch import Batch
from ppdet.structures.predictions import Predictions
from ppdet.utils.errors import UserError


class Scripted(Architecture):
    """Returns what a test gives it."""

    num_classes = 2
    input_fields = (IMAGE_FIELDS[0], InputField("month", ("B", 1)))

    def __init__(self, losses: Any = None, changed: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])
        self.losses, self.changed = losses, changed

    def loss(self, batch: Batch) -> Any:
        return self.losses(self.weight)

    def predict(self, batch: Batch) -> Any:
        if self.changed is None:
            return {}
        ones = batch.image[:, 0, 0, 0] * 0 + batch.extra["month"][:, 0]  # [B], one detection an image
        given = {
            "scores": ones,
            "labels": ones.astype("int64"),
            "counts": ones.astype("int32"),
            "boxes": paddle.stack([ones, ones, 2 * ones, 2 * ones], axis=1),
        }
        return Predictions(**{**given, **{key: change(ones) for key, change in self.changed.items()}})


def images(month: Any = 1.0) -> dict[str, paddle.Tensor]:
    return {"image": paddle.ones([2, 3, 4, 4]), "month": paddle.to_tensor(np.full((2, 1), month, np.float32))}


def targets() -> dict[str, paddle.Tensor]:
    return {**images(), "gt_bbox": paddle.ones([2, 1, 4]), "gt_class": paddle.zeros([2, 1])}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda w: {"loss_a": w.sum()}, "Scripted.loss returns a dict of loss_a: return a dict .* sum as 'loss'"),
        (lambda w: w.sum(), "Scripted.loss returns a tensor: return a dict"),
        (lambda w: None, "Scripted.loss returns None: return a dict"),
        (lambda w: {"loss_a": 1.0, "loss": w.sum()}, "returns a float as 'loss_a': every loss is a scalar tensor"),
        (lambda w: {"loss": w.tile([3])}, r"returns a tensor of shape \[3\] as 'loss'"),
        (lambda w: {"loss": w.sum().detach()}, "'loss' without gradient, which trains nothing"),
    ],
)
def test_losses(losses: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scripted(losses)(targets())


def test_losses_as_promised() -> None:
    model = Scripted(lambda w: {"loss": w.sum()})
    assert list(model(targets())) == ["loss"]
    with paddle.no_grad():
        assert list(model(targets())) == ["loss"]


WRONG_PREDICTIONS = [
    (None, "Scripted.predict returns a dict: return a Predictions object"),
    ({"boxes": lambda x: None}, "declares has_boxes = True, but its predictions have has_boxes = False"),
    ({"masks": lambda x: paddle.ones([2, 8, 8])}, "declares mask_frame = None, but .* mask_frame = 'box'"),
    ({"boxes": lambda x: paddle.ones([2, 3])}, r"returns boxes of shape .*2?, 3\], expected \[N, 4\]"),
]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *WRONG_PREDICTIONS,
        ({"scores": lambda x: x[1:]}, r"returns labels of shape \[2\], expected \[N\] with N = 1"),
        ({"counts": lambda x: (2 * x).astype("int32")}, r"predict returns 2 detections, but bbox_num is \[2, 2\]"),
        ({"labels": lambda x: (5 * x).astype("int64")}, "predict returns class 5, but there are 2 class names"),
    ],
)
def test_predictions(changed: Any, message: str) -> None:
    model = Scripted(changed=changed)
    model.eval()
    with pytest.raises(UserError, match=message):
        predict_batch(model, images())


@pytest.mark.parametrize(("changed", "message"), WRONG_PREDICTIONS)
def test_predictions_of_a_traced_graph(changed: Any, message: str, tmp_path: Any) -> None:
    specs = [InputSpec([None, 3, None, None], "float32", "image"), InputSpec([None, 1], "float32", "month")]
    model = Scripted(changed=changed)
    with pytest.raises(UserError, match=message) as caught:
        save_graph(ExportNet(model), specs, tmp_path)
    assert str(caught.value).startswith("Scripted") and "\n" not in str(caught.value)


def test_inputs() -> None:
    model = Scripted(changed={})
    model.eval()
    assert predict_batch(model, images())["bbox"].shape == (2, 6)
    with pytest.raises(UserError, match=r"month \(float32 \[B, 1\]\), but the batches have float32 \[2, 3\]: correct"):
        model({**images(), "month": paddle.ones([2, 3])})
    with pytest.raises(UserError, match=r"month \(float32 \[B, 1\]\), but the batches have int64 \[2, 1\]: correct"):
        model({**images(), "month": paddle.ones([2, 1], "int64")})


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("mask_frame", "foo", "Scripted.mask_frame is 'foo': expected None or one of box, image, affine"),
        ("has_boxes", False, "has_boxes is False, but mask_frame is None"),
        ("input_fields", (IMAGE_FIELDS[0], ("month", ("B", 1))), 'write InputField\\("month"'),
        ("input_fields", IMAGE_FIELDS[1:], "list 'image', and every input once"),
        ("training_fields", ("boxes",), "training_fields is .'boxes',.: write a dict"),
        ("predict", Architecture.predict, r"Scripted does not define predict\(batch\)"),
        ("has_candidates", True, r"Scripted does not define candidates\(batch\)"),
    ],
)
def test_declarations(attribute: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppdet.engine.model_and_data.create", lambda config, name: Scripted())
    config = Config({"architecture": "Scripted"})
    assert isinstance(build_architecture(config), Scripted)
    monkeypatch.setattr(Scripted, attribute, value)
    with pytest.raises(UserError, match=message):
        build_architecture(config)


def test_a_target_may_be_added_to_the_samples_alone() -> None:
    class Samples:
        training_fields = frozenset({"boxes"})

        def __getitem__(self, index: int) -> Any:
            return SimpleNamespace(extra={"gt_center": None})

    model = Scripted()
    model.training_fields = {"boxes": "", "gt_center": ""}
    check_train_data(model, Samples())
    model.training_fields = {"boxes": "", "gt_other": ""}
    with pytest.raises(UserError, match=r"learns from 'gt_other', which .*Samples\) does not supply: use a dataset"):
        check_train_data(model, Samples())
