"""What one training step of HTC asks of the host: nothing, but for the suppression of the RPN.

A GPU's part of the code runs here on the CPU: the switch between the two, `may_depend_on_data`, answers as on a GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import numpy as np
import paddle
import pytest
from host_reads import HostReads, data_dependent, operators, shapes
from paddle import nn
from paddle.amp import GradScaler, grad_scaler
from paddle.amp.auto_cast import amp_global_state

from ppdet.core.workspace import create, load_config
from ppdet.engine.precision import Precision
from ppdet.engine.trainer import Trainer
from ppdet.engine.training.checkpoint import RunState, TrainParts
from ppdet.engine.training.loss_window import LossWindow
from ppdet.engine.training.train_step import TrainStep
from ppdet.modeling.assigners.sampler import sample
from ppdet.modeling.ops import roi_align
from ppdet.optimizer import ModelEMA
from ppdet.structures import proposals
from tests.end_to_end.conftest import SMALL
from tests.end_to_end.test_switches import batch

STAGES, LEVELS = 3, 4

Run = Callable[..., LossWindow]


def use_gpu_path(patch: pytest.MonkeyPatch) -> None:
    """Let the code choose what it would on a GPU."""
    for module in (proposals, roi_align):
        patch.setattr(module, "may_depend_on_data", lambda x: False)


@pytest.fixture(scope="module")
def run(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of everything: three stages with masks and semantic branch, clipping, schedule, average, window."""
    folder = tmp_path_factory.mktemp("host_reads")
    (folder / "small.yml").write_text(SMALL.format(root=repo_root, folder=folder))
    config = load_config(str(folder / "small.yml"))
    paddle.seed(1)
    model = create(config, config.architecture)
    model.train()
    optimizer = create(config, "OptimizerBuilder")(create(config, "LearningRate")(10), model)
    assert optimizer._grad_clip is not None
    step = TrainStep(model, TrainParts(model, optimizer, ModelEMA(model)), Precision())

    def steps(*batches: dict[str, paddle.Tensor]) -> LossWindow:
        window = LossWindow()
        for inputs in batches:
            window.add(step([inputs]), RunState(), [inputs])
        return window

    steps(batch([2, 1]))  # builds what is built once
    return steps


@pytest.fixture()
def gpu_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, as on a GPU."""
    use_gpu_path(monkeypatch)
    return run


@pytest.mark.parametrize("counts", [[3, 2], [3, 0], [0, 0]])
def test_steps_read_nothing_and_a_log_line_reads_once(gpu_run: Run, counts: list[int]) -> None:
    inputs = batch(counts)
    with HostReads() as reads:
        window = gpu_run(inputs, inputs)
        assert reads.found == []
        losses = window.read()
        assert len(reads.found) == 1 and "loss_window.py" in reads.found[0]
    assert np.isfinite(losses["loss"]) and "loss_mask_stage2" in losses and "loss_semantic" in losses


def test_the_loop_reads_at_log_lines_and_checkpoints_alone(tmp_path: Path) -> None:
    """A whole training of the stand-in: 3 epochs of 4 steps, a line after the first step and every 2, a checkpoint."""
    trainer = Trainer(fakes.make_config(tmp_path, epoch=3, snapshot_epoch=3, use_ema=True))
    with HostReads() as reads:
        trainer.train()
    files = Counter(re.findall(r"\((\w+\.py):", " ".join(reads.found)))
    assert files.pop("loss_window.py") == 7
    assert set(files) <= {"checkpoint.py", "weights.py", "ema.py", "optimizer_state.py"}, reads.found
    assert files["weights.py"] == len(trainer.model.state_dict())


@pytest.mark.parametrize("counts", [[3, 2], [3, 0]])
def test_suppression_is_the_only_operator_that_depends_on_data(gpu_run: Run, counts: list[int]) -> None:
    inputs = batch(counts)
    count = operators(lambda: gpu_run(inputs))
    assert data_dependent(count) == {"multiclass_nms3": 1}
    # What docs/performance.md says of RoIAlign: box and mask RoIs of each stage on each level and on the semantic
    # feature, mask targets of each stage, which need no gradient.
    assert count["roi_align"] == STAGES * (2 * (LEVELS + 1) + 1)
    assert count["roi_align_grad"] == STAGES * 2 * (LEVELS + 1)
    assert count["conv2d_grad"] > 0 and count["adamw_"] > 0  # backward and optimizer are in the record


def test_shapes_are_the_same_whatever_is_in_the_images(gpu_run: Run) -> None:
    """Same input sizes and slots, other pixels, objects and proposals: the same operators on the same shapes."""
    full, sparse = batch([3, 3]), batch([3, 0])
    sparse["image"] = paddle.rand(sparse["image"].shape) * 4
    traces = []
    for inputs in (full, sparse):
        with shapes() as trace:
            gpu_run(inputs)
        traces.append(trace)
    assert len(traces[0]) > 1000
    names = [[name for name, _ in trace] for trace in traces]
    assert names[0] == names[1]
    start = names[0].index("multiclass_nms3")
    end = next(i for i in range(start, len(names[0])) if names[0][i] == "scatter")
    for place, (one, other) in enumerate(zip(*traces)):
        assert one == other or start <= place < end, place  # between suppression and slots shapes may differ


def test_no_constant_is_uploaded(gpu_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, uploads = batch([3, 2]), []
    original = paddle.to_tensor

    def counting(*args: Any, **kwargs: Any) -> paddle.Tensor:
        uploads.append(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(paddle, "to_tensor", counting)
    gpu_run(inputs)
    assert uploads == []


def test_the_loss_scaler_reads_one_flag_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paddle's, not ours: whether a gradient overflowed decides on the host whether the optimizer runs at all."""
    gpu = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    with monkeypatch.context() as patch:
        patch.setattr(grad_scaler, "_dygraph_tracer", lambda: gpu)
        scaler = GradScaler(init_loss_scaling=8.0)
    # as a float16 forward on a GPU leaves it
    monkeypatch.setattr(amp_global_state(), "amp_dtype", "float16")

    class Model(nn.Linear):
        def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
            return {"loss": super().forward(inputs["image"]).mean()}

    model = Model(2, 2)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
    step = TrainStep(model, TrainParts(model, optimizer, None, scaler), Precision())
    inputs, before = {"image": paddle.ones([1, 2])}, model.weight.numpy().copy()
    with HostReads() as reads:
        for _ in range(3):
            step([inputs])
    assert scaler.is_enable() and len(reads.found) == 3 and all("__bool__" in read for read in reads.found)
    np.testing.assert_allclose(model.weight.numpy(), before - 0.1 * 0.5 * (1 + 1.9 + 2.71), rtol=1e-5)


def test_on_a_cpu_the_counters_see_what_is_there(run: Run) -> None:
    """The CPU's own part reads and selects: proof that the instruments above are not blind."""
    inputs = batch([3, 2])
    with HostReads() as reads:
        run(inputs)
    assert len(reads.found) == STAGES and all("proposals.py" in read for read in reads.found)
    # each stage selects the RoIs of each level for boxes and for masks
    assert data_dependent(operators(lambda: run(inputs))) == {"multiclass_nms3": 1, "nonzero": STAGES * 2 * LEVELS}


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("numpy", lambda x: x.numpy()),
        ("item", lambda x: x[0].item()),
        ("tolist", lambda x: x.tolist()),
        ("__bool__", lambda x: 1 if (x > 0).any() else 2),
        ("__bool__", lambda x: assert_(x.sum())),
        ("__int__", lambda x: int(x.sum())),
        ("__float__", lambda x: float(x.sum())),
        ("__index__", lambda x: range(5)[x[:1].astype("int64").sum()]),
        ("__array__", lambda x: np.asarray(x)),
        ("cpu", lambda x: x.cpu()),
        ("__str__|__repr__|__format__", lambda x: f"{x}"),
        ("slice", lambda x: x[: x.shape[0] - x.sum().astype("int64")]),
        ("boolean", lambda x: x[x > 0]),
        ("reshape|item", lambda x: x.reshape([x.sum().astype("int32") + 1])),
        ("expand", lambda x: x.sum().expand([x.sum().astype("int32")])),
        ("full|item", lambda x: paddle.full([x.sum().astype("int32")], 1.0)),
        ("clip|item", lambda x: x.clip(max=x.sum())),
        ("arange", lambda x: paddle.arange(x.sum())),
        ("topk", lambda x: paddle.topk(x, x.sum().astype("int32"))),
        ("__bool__", lambda x: sum(1 for part in x if part > 0)),
    ],
)
def test_each_kind_of_read_is_counted(what: str, read: Callable[[paddle.Tensor], Any]) -> None:
    x = paddle.to_tensor([1.0, 1.0, 0.0])
    with HostReads() as reads:
        read(x)
    assert reads.found and re.search(what, reads.found[0]), reads.found


def assert_(condition: paddle.Tensor) -> None:
    """What an ``assert`` on a tensor does."""
    assert condition


@pytest.mark.parametrize(
    "call",
    [
        lambda x: paddle.nonzero(x),
        lambda x: paddle.where(x > 0),
        lambda x: paddle.masked_select(x, x > 0),
        lambda x: x[x > 0],
        lambda x: paddle.unique(x),
        lambda x: paddle.vision.ops.nms(paddle.rand([3, 4]), 0.5),
    ],
)
def test_each_data_dependent_operator_is_counted(call: Callable[[paddle.Tensor], Any]) -> None:
    assert data_dependent(operators(lambda: call(paddle.to_tensor([1.0, 1.0, 0.0]))))


def test_a_read_put_into_the_step_is_noticed(gpu_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(*args: Any, **kwargs: Any) -> Any:
        positives, negatives = sample(*args, **kwargs)
        return (positives, negatives) if positives.any() else (negatives, negatives)

    from ppdet.modeling.assigners import bbox_assigner

    monkeypatch.setattr(bbox_assigner, "sample", reading)
    inputs = batch([3, 2])
    with HostReads() as reads:
        gpu_run(inputs)
    assert len(reads.found) == STAGES * 2 and "__bool__" in reads.found[0] and "test_host_reads.py" in reads.found[0]
