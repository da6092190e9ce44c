"""Whether everything that a training step and a prediction compute on a GPU has a GPU kernel, checked without a GPU.

Where a kernel is missing, Paddle ends with a traceback, or silently computes on the CPU and copies there and back.
"""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest
import steps
from kernel_log import FLOATS, HALF, Trace, half_types_missing, missing, parse, read_table, traced
from paddle.base import core

from ppdet.core.registry import class_info, registered_names
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine import precision
from ppdet.engine.precision import Precision, check_optimizer
from ppdet.modeling.architectures import Architecture
from ppdet.utils.cli import parse_overrides
from ppdet.utils.errors import UserError

of_the_table = pytest.mark.skipif(
    not paddle.__version__.startswith("2.6."),
    reason=f"the table is of Paddle 2.6.2, this is {paddle.__version__}, whose operators have other kernels",
)
TABLE = read_table()

USED = (
    "conv2d conv2d_grad conv2d_transpose_grad batch_norm_grad group_norm_grad deformable_conv deformable_conv_grad "
    "roi_align roi_align_grad multiclass_nms3 bilinear_interp_grad pool2d cross_entropy_with_softmax_grad "
    "sigmoid_cross_entropy_with_logits_grad momentum sgd adam adamw squared_l2_norm check_finite_and_unscale isfinite "
    "where scatter argsort"
).split()
"""Operators that the steps are known to use."""


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Of two steps and a prediction of each model."""
    return parse(traced())


def lists(half: str, level: str) -> tuple[set[str], set[str]]:
    """Paddle's white and black list of mixed precision, under the names of kernels."""
    from paddle.amp import amp_lists

    def kernels(names: set[str]) -> set[str]:
        return {core._get_phi_kernel_name(name) for name in names}

    return kernels(amp_lists.white_list()[half][level]), kernels(amp_lists.black_list()[half][level])


@of_the_table
def test_the_trace_is_whole_and_of_a_gpus_path(trace: Trace) -> None:
    assert trace.models[-1] == "end" and len(trace.models) == 9
    assert {(name, "float32") for name in USED} <= set(trace.places)
    assert len(trace.places) >= 150
    phases = set().union(*trace.phases.values())
    assert phases == {"build", "forward", "backward", "update", "predict"}
    # What selects by content is the CPU's part of the code.
    assert not {"nonzero", "masked_select"} & {operator for operator, _ in trace.places}


@of_the_table
def test_every_operator_has_a_gpu_kernel_for_its_type(trace: Trace) -> None:
    assert missing(trace, TABLE) == []


@of_the_table
@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("half", HALF)
def test_what_mixed_precision_lowers_has_a_gpu_kernel(trace: Trace, half: str, level: str) -> None:
    white, black = lists(half, level)
    assert {"conv2d", "matmul"} <= white and (level == "O2" or {"sum", "group_norm", "bilinear_interp"} <= black)
    faults = half_types_missing(trace, TABLE, half, white, black, update=level == "O2")
    if (half, level) == ("bfloat16", "O2"):
        # The one gap; the next test shows that a training is refused there.
        assert [fault for fault in faults if "'momentum'" not in fault] == [] and len(faults) == 1
    else:
        assert faults == []


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("kind", ["Momentum", "SGD", "Adam", "AdamW"])
def test_an_optimizer_that_lacks_a_half_type_is_refused(half: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = {name: [f"(GPU, Undefined(AnyLayout), {kind})" for kind in kinds] for name, kinds in TABLE.items()}
    monkeypatch.setattr(precision.core, "_get_registered_phi_kernels", lambda library: registry)
    monkeypatch.setattr(precision.paddle, "get_device", lambda: "gpu:0")
    optimizer = getattr(paddle.optimizer, kind)(parameters=paddle.nn.Linear(1, 1).parameters())
    if half in TABLE[kind.lower()]:
        check_optimizer(optimizer, Precision("O2", half))
        return
    assert (kind, half) == ("Momentum", "bfloat16")
    with pytest.raises(UserError, match="has no bfloat16 kernel of the optimizer Momentum for a GPU"):
        check_optimizer(optimizer, Precision("O2", half))


@pytest.mark.parametrize("half", FLOATS)
@pytest.mark.parametrize("operator", ["sync_batch_norm", "sync_batch_norm_grad"])
def test_what_no_cpu_can_trace_has_a_gpu_kernel(operator: str, half: str) -> None:
    """``norm_type: sync_bn`` becomes plain batch normalisation on a CPU."""
    assert half in TABLE[operator]


# ------------------------------------------------------------------------------------------- the check can fail
@of_the_table
@pytest.mark.parametrize(
    ("operator", "place"),
    [("roi_align", "ops/roi_align.py:"), ("deformable_conv_grad", "layers.py:"), ("adamw", "ppdet/")],
)
def test_a_kernel_that_is_gone_is_named_with_its_place(trace: Trace, operator: str, place: str) -> None:
    table = {**TABLE, operator: TABLE[operator] - {"float32"}}
    (fault,) = missing(trace, table)
    assert fault.startswith(f"'{operator}' has no GPU kernel for float32 (ppdet/") and place in fault


@of_the_table
@pytest.mark.parametrize(
    "operator", ["conv2d", "conv2d_grad", "relu_grad", "check_finite_and_unscale", "batch_norm_grad"]
)
def test_a_half_kernel_that_is_gone_is_named(trace: Trace, operator: str) -> None:
    white, black = lists("float16", "O1")
    table = {**TABLE, operator: TABLE[operator] - {"float16"}}
    (fault,) = half_types_missing(trace, table, "float16", white, black, update=False)
    assert fault.startswith(f"'{operator}' has no GPU kernel for float16 (ppdet/")


@of_the_table
def test_an_operator_without_any_gpu_kernel_is_found_in_a_real_log(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import zlib, paddle\n"
        "paddle.vision.ops.matrix_nms(paddle.rand([1, 3, 4]), paddle.rand([1, 2, 3]), 0.1, 0.1, 3, 3)\n"
        "paddle._legacy_C_ops.softmax(paddle.rand([2, 2], 'float64'), 'axis', -1)\n"
    )
    found = parse(traced(tmp_path / "script.py"))
    assert {("uniform", "float32"), ("softmax", "float64")} <= set(found.places)
    assert missing(found, TABLE) == ["'matrix_nms' has no GPU kernel for float32 (?)"]


LOG = """
@model A
@phase forward
@line ppdet/modeling/a.py:3
I1121 20:22:26.5 7 api.cc:1] relu API kernel key: [CPU, NCHW, float32]
I1121 20:22:26.5 7 api.cc:2] relu kernel: {"input":["CPU, NCHW, float32"],"output":[],"attribute":[]}
I1121 20:22:26.5 7 api.cc:3] relu_ API kernel key: [CPU, Undefined(AnyLayout), int64]
I1121 20:22:26.5 7 api.cc:4] relu kernel: {"input":["CPU, NCHW, int64"],"output":[],"attribute":[]}
@phase backward
@line ppdet/engine/training/train_step.py:9
I1121 20:22:26.5 7 backward_api.cc:5] relu_grad API kernel key: [CPU, NCHW, float32]
I1121 20:22:26.5 7 prepared_operator.cc:6] Dynamic mode PrepareImpl - kernel name: unscale | kernel key: (CPU, \
Undefined(AnyLayout), float32) | kernel: {"input":[],"output":[],"attribute":[]}
"""


def test_reading_a_log() -> None:
    """In-place variants go by their kernel's name, a key without a kernel and old entry points count as well."""
    trace = parse(LOG.splitlines())
    assert set(trace.places) == {
        ("relu", "float32"), ("relu", "int64"), ("relu_grad", "float32"), ("unscale", "float32"),
    }  # fmt: skip
    assert trace.phases["relu_grad", "float32"] == {"backward"}
    table = {"relu": {"float32", "float16"}, "unscale": {"float32"}}
    assert missing(trace, table) == [
        "'relu' has no GPU kernel for int64 (ppdet/modeling/a.py:3 in A)",
        "'relu_grad' has no GPU kernel for float32 (ppdet/modeling/a.py:3 in A)",
    ]
    lowered = half_types_missing(trace, table, "float16", (), (), update=False)
    assert [fault.split()[0] for fault in lowered] == ["'relu_grad'", "'unscale'"]
    assert [fault.split()[0] for fault in half_types_missing(trace, table, "float16", (), {"relu"}, False)] == [
        "'unscale'"
    ]


def test_every_architecture_is_traced(repo_root: Path) -> None:
    architectures = set()
    for model in steps.MODELS.values():
        config = load_config(str(repo_root / "configs" / model.file))
        architectures.add(merge_config(parse_overrides(model.options.split()), config).architecture)
    classes = [class_info(name).cls for name in registered_names()]
    assert architectures == {
        cls.__name__ for cls in classes if issubclass(cls, Architecture) and cls.__module__.startswith("ppdet.")
    }


def test_steps_that_fail_are_no_trace(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise ValueError('of the script')")
    with pytest.raises(RuntimeError, match="(?s)script.py ended with status 1:.*ValueError: of the script"):
        list(traced(tmp_path / "script.py"))


def test_the_table() -> None:
    assert len(TABLE) == 1034 and sum(map(len, TABLE.values())) == 5292
    assert TABLE["roi_align"] == {"float32", "float64"} and TABLE["matrix_nms"] == frozenset()
