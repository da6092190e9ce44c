"""Accumulated gradients, the average of the weights, parameter groups: what a step leaves behind, and where it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import numpy as np
import paddle
import pytest
from paddle import Tensor, nn
from test_train import Recorder, _train

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.checkpoint.weights import read_state, state_arrays
from ppdet.engine import trainer
from ppdet.engine.data import EvalData
from ppdet.engine.precision import Precision
from ppdet.engine.training.checkpoint import TrainParts
from ppdet.engine.training.train_step import TrainStep
from ppdet.optimizer import ModelEMA
from ppdet.structures.proposals import Proposals
from tests.modeling.small_htc import small_htc

pytestmark = pytest.mark.filterwarnings("ignore")

# ------------------------------------------------------------------------------------------------- accumulation


def _moves(model: nn.Layer, batches: list[dict[str, Tensor]], limit: float | None = None) -> dict[str, np.ndarray]:
    """How far a step of SGD at rate 1 moves each parameter."""
    start = {name: value.numpy().copy() for name, value in model.named_parameters() if not value.stop_gradient}
    clip = None if limit is None else nn.ClipGradByGlobalNorm(limit)
    optimizer = paddle.optimizer.SGD(1.0, parameters=model.parameters(), grad_clip=clip)
    TrainStep(model, TrainParts(model, optimizer), Precision())(batches)
    end = {name: value.numpy() for name, value in model.named_parameters() if name in start}
    for name, value in model.named_parameters():
        if name in start:
            value.set_value(start[name])
    return {name: end[name] - start[name] for name in start}


def _far(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Norm of the difference over the norm."""
    difference = sum(float(((ours[name] - value).astype(np.float64) ** 2).sum()) for name, value in theirs.items())
    return float(np.sqrt(difference / sum(float((value.astype(np.float64) ** 2).sum()) for value in theirs.values())))


def _prepared(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Layer, dict[str, Tensor]]:
    """The small HTC with stored statistics, on the same proposals for both images: the same number of everything."""
    model, batch = small_htc(root, ResNet={"norm_eval": True})
    batch["gt_bbox"][1], batch["gt_segm"][1] = batch["gt_bbox"][0], batch["gt_segm"][0]
    corner = np.random.default_rng(1).uniform(0, 60, (40, 2))
    boxes = np.concatenate([corner, corner + [40, 36]], axis=1).astype("float32")
    boxes[:6] = [
        [7, 9, 61, 50],
        [9, 8, 60, 52],
        [10, 8, 62, 49],
        [70, 21, 119, 90],
        [71, 18, 120, 88],
        [69, 20, 118, 91],
    ]

    def propose(features: Any, output: Any, im_shape: Tensor) -> tuple[Proposals, None]:
        count = im_shape.shape[0]
        return Proposals(paddle.to_tensor(np.stack([boxes] * count)), paddle.ones([count, 40], dtype="bool")), None

    monkeypatch.setattr(model.rpn_head, "propose", propose)
    return model, batch


@pytest.mark.parametrize("limit", [None, 0.01])
def test_two_images_one_by_one_are_the_batch_of_two(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    model, batch = _prepared(repo_root, monkeypatch)
    singles = [{name: value[i : i + 1] for name, value in batch.items()} for i in (0, 1)]
    whole = _moves(model, [batch], limit)
    assert len(whole) > 100 and _far(_moves(model, singles, limit), whole) < 1e-5
    assert _far(_moves(model, singles[:1], limit), whole) > 0.05, "the images do differ"
    if limit is not None:
        total = np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in whole.values()))
        assert total == pytest.approx(limit, rel=1e-4)


def test_losses_divide_by_the_counts_of_a_batch(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side: with fewer labelled pixels in one image the mean of two means is not the mean of all."""
    model, batch = _prepared(repo_root, monkeypatch)
    batch["semantic"][1, 16:] = 255
    singles = [{name: value[i : i + 1] for name, value in batch.items()} for i in (0, 1)]
    assert _far(_moves(model, singles), _moves(model, [batch])) > 1e-3


# -------------------------------------------------------------------------------------------------- the average


def test_the_average_is_evaluated_and_saved_and_the_weights_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        EvalData, "from_config", classmethod(lambda cls, config: EvalData(fakes.FakeDataset(), None, {}))
    )
    evaluated: list[dict[str, np.ndarray]] = []
    scores = [0.2, 0.4, 0.3]

    def evaluate(self: trainer.Trainer, data: Any = None) -> dict[str, list[float]]:
        evaluated.append(state_arrays(self.model))
        return {"bbox": [scores[len(evaluated) - 1]] * 12}

    monkeypatch.setattr(trainer.Trainer, "evaluate", evaluate)
    steps: list[dict[str, np.ndarray]] = []
    original = TrainStep.__call__

    def watched(self: TrainStep, batches: Any) -> Any:
        losses = original(self, batches)
        steps.append(state_arrays(self.parts.model))
        return losses

    monkeypatch.setattr(TrainStep, "__call__", watched)
    monkeypatch.setattr(ModelEMA, "decay_at", lambda self, step: 0.75)
    plain = _train(tmp_path / "plain", epoch=3)
    raw, steps[:] = list(steps), []
    start = state_arrays(trainer.Trainer(fakes.make_config(tmp_path)).model)
    run = _train(tmp_path / "averaged", Recorder(), validate=True, epoch=3, use_ema=True)
    # the same weights at every step as without an average, although evaluations came between
    assert len(steps) == 12
    for ours, theirs in zip(steps, raw):
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value)
    np.testing.assert_array_equal(state_arrays(run.model)["head.weight"], state_arrays(plain.model)["head.weight"])
    average = start["head.weight"].astype(np.float64)
    for index, weights in enumerate(steps):
        average = 0.75 * average + 0.25 * weights["head.weight"]
        if index % 4 == 3:
            np.testing.assert_allclose(evaluated[index // 4]["head.weight"], average, rtol=1e-5)
    for tag, at in (("best_model", 1), ("model_final", 2)):
        saved = read_state(run.folder / tag)
        for name, value in evaluated[at].items():
            np.testing.assert_array_equal(saved[name], value)
    content = load_pickle(run.folder / "model_final.pdopt")
    np.testing.assert_array_equal(content["model"]["head.weight"], steps[-1]["head.weight"])


GROUPS = [{"params": ["bias"], "weight_decay": 0.0}, {"params": ["head"], "learning_rate": 0.5}]


@pytest.mark.parametrize("kind", ["Momentum", "AdamW"])
def test_parameter_groups_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    optimizer = {"type": kind, "param_groups": GROUPS, "filter_bias_and_bn": True}
    builder: dict[str, Any] = {"optimizer": optimizer, "clip_grad_by_norm": 1.0}
    if kind == "AdamW":
        builder["regularizer"] = None
    whole = _train(tmp_path / "whole", OptimizerBuilder=builder)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", Recorder(stop_after=2), OptimizerBuilder=builder)
    resumed = _train(tmp_path / "cut", resume="", OptimizerBuilder=builder)
    ours, theirs = (load_pickle(run.folder / "model_final.pdopt")["optimizer"] for run in (resumed, whole))
    assert ours.keys() == theirs.keys() and "head.weight:" in " ".join(ours)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    final, expected = (read_state(run.folder / "model_final") for run in (resumed, whole))
    for name, value in expected.items():
        np.testing.assert_array_equal(final[name], value, err_msg=name)
