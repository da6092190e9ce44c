"""Training steps and predictions of every architecture, on the code's path for a GPU.

Run as a program by `kernel_log.traced`. Paddle writes a line to stderr for each kernel that it chooses. Lines of this
file go in between: ``@model NAME``, ``@phase NAME`` (build, forward, backward, update, predict) and
``@line FILE:NUMBER``, the line of ``ppdet`` that computes.
"""

from __future__ import annotations

import os
import sys
import zlib  # noqa: F401  before Paddle 2.6, whose own copy the module would otherwise be bound to
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import paddle
from paddle.amp import grad_scaler
from paddle.amp.auto_cast import amp_global_state

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
COMPUTING = tuple(str(ROOT / "ppdet" / part) for part in ("engine", "modeling", "optimizer", "structures"))

from ppdet.core.workspace import create, load_config, merge_config  # noqa: E402
from ppdet.engine.precision import Precision  # noqa: E402
from ppdet.engine.training.loss_window import LossWindow  # noqa: E402
from ppdet.engine.training.nonfinite import StepGuard  # noqa: E402
from ppdet.engine.training.start import build_parts  # noqa: E402
from ppdet.engine.training.train_step import TrainStep  # noqa: E402
from ppdet.structures import shapes  # noqa: E402
from ppdet.utils.cli import parse_overrides  # noqa: E402
from tests.end_to_end.test_switches import batch  # noqa: E402

SMALL = (
    "use_gpu=false num_classes=6 ResNet.depth=18 ResNet.ch_in=8 FPN.out_channel=16 BBoxAssigner.batch_size_per_im=16 "
    "RPNHead.rpn_target_assign.batch_size_per_im=64 RPNHead.train_proposal.pre_nms_top_n=50 "
    "RPNHead.train_proposal.post_nms_top_n=20 RPNHead.test_proposal.pre_nms_top_n=50 "
    "RPNHead.test_proposal.post_nms_top_n=10 BBoxPostProcess.nms.score_threshold=0.01 use_ema=true"
)
HTC = (
    "semantic_num_classes=12 HybridTaskCascadeTwoFCHead.out_channel=32 HybridTaskMaskFeat.num_convs=1 "
    "HybridTaskMaskFeat.out_channel=16 FusedSemanticHead.num_convs=1 FusedSemanticHead.conv_out_channels=16"
)
CASCADE = "CascadeTwoFCHead.out_channel=32 HybridTaskMaskFeat.num_convs=1 HybridTaskMaskFeat.out_channel=16"
MASK = "TwoFCHead.out_channel=32 MaskFeat.num_convs=1 MaskFeat.out_channel=16"
CLIP = "OptimizerBuilder.clip_grad_by_norm=10.0"


class Model(NamedTuple):
    """A configuration, what is set in it, and ``OptimizerBuilder`` in place of its own."""

    file: str
    options: str
    optimizer: dict[str, Any] | None = None


MODELS = {
    "HTC, batch normalisation trains": Model("demo/htc_r18_demo.yml", HTC),  # AdamW, clipping by norm
    "HTC, group normalisation, DCN v1 and v2": Model(
        "htc/htc_r50_fpn_1x_coco.yml",
        f"{HTC} {CLIP} norm_type=gn ResNet.variant=d ResNet.dcn_v1_stages=[1] ResNet.dcn_v2_stages=[2,3] "
        "ResNet.freeze_at=-1 HybridTaskCascadeHead.reg_class_agnostic=false HybridTaskMaskHead.class_agnostic=true",
    ),
    "HTC, no semantic branch": Model(
        "htc/htc_without_semantic_r50_fpn_1x_coco.yml", HTC, {"optimizer": {"type": "SGD"}, "clip_grad_by_value": 1.0}
    ),
    "Cascade Mask R-CNN": Model("cascade_mask_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.yml", f"{CASCADE} {CLIP}"),
    "Cascade Mask R-CNN, PaddleDetection's": Model(
        "cascade_mask_rcnn/paddledet_cascade_mask_rcnn_r50_fpn_1x_coco.yml", f"{CASCADE} {MASK}"
    ),
    "Mask R-CNN": Model(
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml",
        MASK,
        {
            "optimizer": {"type": "Momentum", "param_groups": [{"params": ["rpn"], "learning_rate": 0.1}]},
            "regularizer": {"type": "L1", "factor": 0.0001},
            "clip_grad_by_norm": 10.0,
        },
    ),
    "Mask R-CNN, PaddleDetection's": Model("mask_rcnn/paddledet_mask_rcnn_r50_fpn_1x_coco.yml", MASK),
    "Faster R-CNN": Model(
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml",
        f"{MASK} architecture=FasterRCNN",
        {"optimizer": {"type": "Adam"}},
    ),
}
SCALED = {"Cascade Mask R-CNN", "Mask R-CNN"}
"""Models that train with float16's loss scaling, on float32 gradients."""


def say(kind: str, text: str) -> None:
    """Write a line of one's own into the log."""
    os.write(2, f"\n@{kind} {text}\n".encode())


def follow_lines() -> None:
    """Write down each line that runs in the parts of ``ppdet`` that compute."""
    last = ""

    def note(frame: FrameType) -> None:
        nonlocal last
        here = f"{frame.f_code.co_filename[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
        if here != last:
            say("line", here)
            last = here

    def within(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        caller = frame.f_back
        if event == "line":
            note(frame)
        elif event == "return" and caller is not None and caller.f_code.co_filename.startswith(COMPUTING):
            note(caller)
        return within

    def entered(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return within if frame.f_code.co_filename.startswith(COMPUTING) else None

    sys.settrace(entered)


def as_on_a_gpu() -> None:
    """Let the code choose what it would on a GPU, and loss scalers be made as there."""
    chosen = [module for module in sys.modules.values() if getattr(module, "may_depend_on_data", None) is not None]
    assert len(chosen) >= 3, "shapes, proposals and roi_align"
    for module in chosen:
        if module is not shapes:
            module.may_depend_on_data = lambda x: False  # type: ignore[attr-defined]
    shapes.may_depend_on_data = lambda x: not paddle.in_dynamic_mode()
    amp_global_state().amp_dtype = "float16"
    place = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    grad_scaler._dygraph_tracer = lambda: place


def run(name: str, chosen: Model, precision: Precision) -> None:
    """Train two steps, the second one with a guard that can take it back, and predict."""
    say("model", name)
    say("phase", "build")
    config = load_config(str(ROOT / "configs" / chosen.file))
    if chosen.optimizer is not None:
        config["OptimizerBuilder"] = chosen.optimizer
    merge_config(parse_overrides(f"{SMALL} {chosen.options}".split()), config)
    paddle.seed(0)
    model = create(config, config.architecture)
    parts = build_parts(config, model, Precision(), steps=10, images=20, total_batch=2)
    parts.scaler = precision.scaler()
    model.register_forward_pre_hook(lambda *_: say("phase", "forward" if model.training else "predict"))
    model.register_forward_post_hook(lambda *_: say("phase", "backward" if model.training else "predict"))
    optimize = parts.optimizer.step

    def step() -> None:
        say("phase", "update")
        optimize()

    parts.optimizer.step = step
    model.train()
    inputs = batch([2, 1])
    train = TrainStep(model, parts, Precision(), StepGuard(parts))
    window = LossWindow(allowed=9)
    for share in (1, 2):  # the second one with accumulation
        window.add(train([inputs] * share), window._state, [inputs])
    window.read()
    model.eval()
    say("phase", "predict")
    assert parts.ema is not None
    with parts.ema.applied(), paddle.no_grad():
        predictions = model(inputs)
        predictions.to_outputs()
    assert int(predictions.counts.sum()) > 0, "the post-processing has seen nothing"


def main() -> None:
    """Run all models."""
    paddle.set_device("cpu")
    as_on_a_gpu()
    follow_lines()
    for name, chosen in MODELS.items():
        run(name, chosen, Precision("O1", "float16", 8.0) if name in SCALED else Precision())
    say("model", "end")


if __name__ == "__main__":
    main()
