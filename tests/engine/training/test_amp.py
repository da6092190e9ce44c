"""Mixed precision: what is chosen where, and the loss scaling from overflow to growth.

Paddle's scaler switches itself off on a CPU; here it is told that there is a GPU, and everything behind that (the check
of the gradients, the unscaling, the skipped update) runs as it does there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.amp import grad_scaler
from test_train import Recorder, _equal, _train

from ppdet.checkpoint.formats.unpickle import load_pickle
from ppdet.core.config.settings import RuntimeSettings
from ppdet.engine import precision, session
from ppdet.engine.precision import Precision, check_optimizer, choose_precision
from ppdet.engine.training.checkpoint import RunState, TrainParts, save_checkpoint
from ppdet.engine.training.resume import resume
from ppdet.engine.training.train_step import TrainStep
from ppdet.optimizer import ModelEMA, OptimizerBuilder
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture()
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scalers are made as where there is a GPU."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    yield


# ------------------------------------------------------------------------------------------------------- the choice
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16"])
def test_amp_on_a_cpu_is_not_had_and_the_log_says_so(
    bfloat16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paddle.set_device("cpu")
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda device=None: bfloat16)
    chosen = choose_precision(True, RuntimeSettings.from_config({"amp_level": "O2", "amp_dtype": dtype}))
    assert chosen == Precision(None) and chosen.scaler() is None
    assert "does not support it on a CPU: computing in float32" in capsys.readouterr().out
    assert choose_precision(False, RuntimeSettings()) == Precision(None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_paddles_auto_cast_does_nothing_on_a_cpu(dtype: str, level: str) -> None:
    """The fact that the log's line stands for: should this fail one day, CPUs have AMP."""
    layer = nn.Linear(3, 4)
    with Precision(level, dtype).context():
        assert layer(paddle.ones([2, 3])).dtype == paddle.float32
        assert nn.Conv2D(1, 1, 1)(paddle.ones([1, 1, 2, 2])).dtype == paddle.float32
    assert paddle.amp.decorate(layer, level="O2", dtype=dtype).weight.dtype == paddle.float32


def _on_a_gpu(monkeypatch: pytest.MonkeyPatch, *types: str) -> None:
    monkeypatch.setattr(precision.paddle, "get_device", lambda: "gpu:0")
    for name in ("float16", "bfloat16"):
        monkeypatch.setattr(paddle.amp, f"is_{name}_supported", lambda device=None, name=name: name in types)


def test_the_choice_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _on_a_gpu(monkeypatch, "float16", "bfloat16")
    assert choose_precision(True, RuntimeSettings()) == Precision("O1", "float16", 65536.0)
    given = {"amp_level": "O2", "amp_dtype": "bfloat16", "custom_white_list": ["b", "a"], "custom_black_list": ["c"]}
    chosen = choose_precision(True, RuntimeSettings.from_config(given))
    assert chosen == Precision("O2", "bfloat16", 65536.0, ("a", "b"), ("c",)) and chosen.scaler() is None
    assert choose_precision(True, RuntimeSettings.from_config({"init_loss_scaling": 128})).init_scale == 128.0
    assert "float16 with an initial loss scaling of 128, level O1" in capsys.readouterr().out
    _on_a_gpu(monkeypatch, "float16")
    with pytest.raises(UserError, match="amp_dtype is bfloat16, which this GPU does not support: set amp_dtype to f"):
        choose_precision(True, RuntimeSettings.from_config({"amp_dtype": "bfloat16"}))
    _on_a_gpu(monkeypatch)
    assert choose_precision(True, RuntimeSettings()) == Precision(None)
    assert "this GPU does not support float16: computing in float32" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not support: train without --amp"):
        choose_precision(True, RuntimeSettings.from_config({"amp_dtype": "float16"}))


def test_an_optimizer_without_a_kernel_for_the_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum in Paddle 2.6 has no bfloat16; `tests/gpu_kernels` finds it in the table of that version."""
    kernels = [f"({place}, Undefined(AnyLayout), {kind})" for place, kind in (
        ("CPU", "bfloat16"), ("GPU", "float16"), ("GPU", "float32"), ("GPU", "float64")
    )]  # fmt: skip
    monkeypatch.setattr(precision.core, "_get_registered_phi_kernels", lambda library: {"momentum": kernels})
    layer = nn.Linear(1, 1)
    momentum = paddle.optimizer.Momentum(parameters=layer.parameters())
    check_optimizer(momentum, Precision("O2", "bfloat16"))  # on a CPU nothing is lowered
    monkeypatch.setattr(precision.paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(UserError, match="no bfloat16 kernel of the optimizer Momentum .* set amp_level to O1 or amp_d"):
        check_optimizer(momentum, Precision("O2", "bfloat16"))
    for allowed in (Precision("O2", "float16"), Precision("O1", "bfloat16"), Precision()):
        check_optimizer(momentum, allowed)
    check_optimizer(paddle.optimizer.SGD(parameters=layer.parameters()), Precision("O2", "bfloat16"))  # not known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"custom_white_list": ["x"], "custom_black_list": ["x", "y"]},
            "'x' is both in custom_white_list and",
        ),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        choose_precision(True, RuntimeSettings.from_config(given))
    assert "\n" not in str(caught.value)


def test_lists_reach_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **given: seen.update(given))
    Precision("O1", "bfloat16", white=("softmax",), black=("conv2d",)).context()
    assert seen == {
        "level": "O1", "dtype": "bfloat16", "custom_white_list": {"softmax"}, "custom_black_list": {"conv2d"},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the scaler
class Pair(nn.Layer):
    """loss = a * x + b * y: the gradients are the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.b = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the loss."""
        return {"loss": (self.a * batch["x"] + self.b * batch["y"]).sum()}


def _batch(x: float, y: float) -> dict[str, Any]:
    return {"x": paddle.to_tensor([x]), "y": paddle.to_tensor([y])}


def _training(init_scale: float = 8.0, **settings: Any) -> tuple[TrainStep, TrainParts]:
    model = Pair()
    schedule = paddle.optimizer.lr.LambdaDecay(0.1, lambda step: 0.5**step)
    optimizer = OptimizerBuilder(**{"regularizer": None, **settings})(schedule, model)
    setup = Precision("O1", "float16", init_scale)
    parts = TrainParts(model, optimizer, ModelEMA(model, 0.5, "normal"), setup.scaler())
    assert parts.scaler is not None and parts.scaler.is_enable()
    return TrainStep(model, parts, setup), parts


def _values(parts: TrainParts) -> list[float]:
    return [parts.model.a.item(), parts.model.b.item()]


def _scale(parts: TrainParts) -> float:
    return float(parts.scaler.state_dict()["scale"][0])  # type: ignore[union-attr]


def test_a_scaled_step_is_the_plain_step(as_on_a_gpu: None) -> None:
    step, parts = _training()
    assert float(step([_batch(3.0, 4.0)])["loss"]) == 11.0, "the loss in the log is not scaled"
    np.testing.assert_allclose(_values(parts), [1 - 0.3, 2 - 0.4], rtol=1e-6)


GROUPS = [{"params": ["b"], "learning_rate": 1.0}]


@pytest.mark.parametrize("kind", ["Momentum", "SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("broken", [float("inf"), float("nan"), 1e38])
def test_overflow_skips_the_step_and_halves_the_scale(as_on_a_gpu: None, kind: str, groups: Any, broken: float) -> None:
    step, parts = _training(optimizer={"type": kind, "param_groups": groups})
    step([_batch(3.0, 4.0)])
    before, moments = _values(parts), _moments(parts)
    average = parts.ema.weights()["a"].item()  # type: ignore[union-attr]
    losses = step([_batch(3.0, broken)])  # 1e38: the loss is finite, 8 times it is not
    if broken == 1e38:
        assert np.isfinite(float(losses["loss"]))
    assert _values(parts) == before and _moments(parts) == moments, "nothing moves, in any group"
    assert _scale(parts) == 4.0
    # the schedule goes on, and the average takes the same weights in once more
    assert parts.optimizer.get_lr() == pytest.approx(0.1 * 0.5**2)
    assert parts.ema.weights()["a"].item() == pytest.approx((average + before[0]) / 2)  # type: ignore[union-attr]
    step([_batch(1.0, 1.0)])
    assert _values(parts) != before and _scale(parts) == 4.0


def _moments(parts: TrainParts) -> dict[str, list[float]]:
    state = parts.optimizer.state_dict()
    return {name: value.numpy().tolist() for name, value in state.items() if isinstance(value, paddle.Tensor)}


def test_growth_after_good_steps_and_the_count_starts_anew_with_an_overflow(as_on_a_gpu: None) -> None:
    step, parts = _training()
    assert parts.scaler.get_incr_every_n_steps() == 2000  # type: ignore[union-attr]
    parts.scaler.set_incr_every_n_steps(3)  # type: ignore[union-attr]
    seen = []
    for value in (1.0, 1.0, float("inf"), 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, float("inf"), float("inf")):
        step([_batch(1.0, value)])
        seen.append(_scale(parts))
    assert seen == [8, 8, 4, 4, 4, 8, 8, 8, 16, 8, 4]


def test_gradients_that_never_are_finite_stop_the_training(
    as_on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    step, _ = _training(init_scale=4.0)
    with pytest.raises(UserError, match="gradients are not finite even with the loss scaled by 7.6") as caught:
        for _ in range(40):
            step([_batch(1.0, float("nan"))])
    assert "\n" not in str(caught.value)
    log = capsys.readouterr().out
    assert "the step is skipped, and the loss scaling is lowered to 2\n" in log and log.count("step is skipped") == 19


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_clipping_sees_unscaled_gradients(as_on_a_gpu: None, groups: Any) -> None:
    optimizer = {"type": "SGD", "param_groups": groups}
    step, parts = _training(1024.0, clip_grad_by_norm=1.0, optimizer=optimizer)
    step([_batch(3.0, 4.0)])
    np.testing.assert_allclose(_values(parts), [1 - 0.06, 2 - 0.08], rtol=1e-6)
    step, parts = _training(1024.0, clip_grad_by_norm=6.0, optimizer=optimizer)
    step([_batch(3.0, 4.0)])
    np.testing.assert_allclose(_values(parts), [1 - 0.3, 2 - 0.4], rtol=1e-6, err_msg="5 is below 6")
    step, parts = _training(1024.0, clip_grad_by_value=3.5, optimizer=optimizer)
    step([_batch(3.0, 4.0)])
    np.testing.assert_allclose(_values(parts), [1 - 0.3, 2 - 0.35], rtol=1e-6)


def test_clipping_sees_the_mean_gradient_of_accumulated_batches(as_on_a_gpu: None) -> None:
    step, parts = _training(1024.0, clip_grad_by_norm=1.0, optimizer={"type": "SGD"})
    step([_batch(1.0, 8.0), _batch(5.0, 0.0)])  # mean (3, 4)
    np.testing.assert_allclose(_values(parts), [1 - 0.06, 2 - 0.08], rtol=1e-6)
    before = _values(parts)
    step([_batch(float("inf"), 8.0), _batch(5.0, 0.0)])  # one bad batch spoils the step
    assert _values(parts) == before and _scale(parts) == 512.0


def test_a_step_reads_one_flag(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    step, parts = _training(optimizer={"type": "Momentum"})
    step([_batch(1.0, 1.0)])
    reads: list[str] = []
    for name in ("numpy", "item", "tolist", "__bool__", "__float__", "__int__"):
        plain = getattr(paddle.Tensor, name)
        monkeypatch.setattr(
            paddle.Tensor, name, lambda self, *a, _plain=plain, _name=name: reads.append(_name) or _plain(self, *a)
        )
    batch = _batch(1.0, 1.0)
    step([batch])
    assert [name for name in reads if name != "numpy"] == ["__bool__"] and reads.count("numpy") <= 1


def test_scaler_resumes(as_on_a_gpu: None, tmp_path: Path) -> None:
    def go(step: TrainStep, parts: TrainParts, values: list[float]) -> list[list[float]]:
        seen = []
        for value in values:
            step([_batch(1.0, value)])
            seen.append([_scale(parts), *_values(parts)])
        return seen

    values = [1.0, float("inf"), 1.0, 1.0, 1.0, float("nan"), 1.0, 1.0, 1.0, 1.0]
    step, parts = _training()
    parts.scaler.set_incr_every_n_steps(3)  # type: ignore[union-attr]
    whole = go(step, parts, values)
    assert [row[0] for row in whole] == [8, 4, 4, 4, 8, 4, 4, 4, 8, 8]
    for cut in (1, 2, 4, 6):
        step, parts = _training()
        parts.scaler.set_incr_every_n_steps(3)  # type: ignore[union-attr]
        go(step, parts, values[:cut])
        save_checkpoint(tmp_path / "cut", parts, RunState())
        step, again = _training(init_scale=99.0)
        resume(tmp_path / "cut", again)
        assert _state(again) == _state(parts)
        assert go(step, again, values[cut:]) == whole[cut:]


def _state(parts: TrainParts) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in parts.scaler.state_dict().items()}  # type: ignore[union-attr]


def test_interrupted_training_resumes_in_the_middle_of_overflows(
    as_on_a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a scale at which a dozen steps overflow: cut while they last and after, the ends are the same."""
    monkeypatch.setattr(session, "choose_precision", lambda asked, config: Precision("O1", "float16", 2.0**127))
    settings: dict[str, Any] = {"use_ema": True, "epoch": 3, "ema_decay": 0.5}
    whole = _train(tmp_path / "whole", **settings)
    scaler = load_pickle(whole.folder / "model_final.pdopt")["scaler"]
    assert 2.0**110 < float(scaler["scale"][0]) < 2.0**127 and scaler["incr_count"] > 0
    for step in (2, 6):
        folder = tmp_path / f"cut{step}"
        with pytest.raises(KeyboardInterrupt):
            _train(folder, Recorder(stop_after=step), **settings)
        resumed = _train(folder, resume="", **settings)
        assert _equal(resumed.folder / "model_final", whole.folder / "model_final")
        again = load_pickle(resumed.folder / "model_final.pdopt")["scaler"]
        assert {k: np.asarray(v).tolist() for k, v in again.items()} == {
            k: np.asarray(v).tolist() for k, v in scaler.items()
        }
