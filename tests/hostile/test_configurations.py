"""Values of a configuration that no model, reader or optimizer can use: one line with key and place, no traceback."""

from __future__ import annotations

import inspect
import math
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest

from deploy.python import Predictor
from ppdet.core.config.keys import RUNTIME_KEYS
from ppdet.core.config.node import Config, ConfigDict, Descriptor, clone
from ppdet.core.config.ranges import Interval, OneOf
from ppdet.core.config.schema import validate
from ppdet.core.config.types import alternatives, matches
from ppdet.core.registry import class_info, registered_names
from ppdet.core.workspace import ConfigError, create, load_config, merge_config
from ppdet.utils.cli import parse_overrides
from ppdet.utils.errors import UserError
from tests.hostile.conftest import LONGEST_MESSAGE, Bench

pytestmark = pytest.mark.same_on_every_paddle

SMALL = {
    "use_gpu": False,
    "ResNet": {"depth": 18, "ch_in": 8},
    "FPN": {"out_channel": 16},
    "HybridTaskCascadeTwoFCHead": {"out_channel": 16},
    "HybridTaskMaskFeat": {"num_convs": 1, "out_channel": 16},
    "FusedSemanticHead": {"num_convs": 1, "conv_out_channels": 16},
}

REFUSED = [
    ("ResNet.depth=49", "one of 18, 34, 50, 101, 152, got 49"),
    ("ResNet.variant=c", "'ResNet.variant' takes one of 'a', 'b', 'd', got 'c'"),
    ("ResNet.groups=32", "'ResNet.groups' is 32|'ResNet.depth'|(command line)"),
    ("ResNet.base_width=4", "'ResNet.base_width'|'ResNet.depth'"),
    ("ResNet.return_idx=[0,1,2,4]", "'ResNet.return_idx'"),
    ("ResNet.return_idx=[]", "'ResNet.return_idx'"),
    ("ResNet.return_idx=[-1]", "'ResNet.return_idx'"),
    ("ResNet.return_idx=[3,2,1,0]", "with 1 to 4 entries in ascending order, got [3, 2, 1, 0]"),
    ("ResNet.return_idx=[1,2,3]", "'RPNHead.anchor_generator.strides'|'ResNet.return_idx'|[8, 16, 32, 64]"),
    ("ResNet.num_stages=3", "'ResNet.return_idx'|'ResNet.num_stages' (command line) is 3"),
    ("ResNet.num_stages=0", "'ResNet.num_stages'"),
    ("ResNet.freeze_at=9", "'ResNet.freeze_at' takes an integer between -1 and 3, got 9"),
    ("ResNet.lr_mult_list=[1.0,1.0]", "'ResNet.lr_mult_list'|2 entries|'ResNet.num_stages'"),
    ("ResNet.dcn_v1_stages=[4]", "'ResNet.dcn_v1_stages'"),
    ("ResNet.dcn_v1_stages=[2] ResNet.dcn_v2_stages=[2]", "'ResNet.dcn_v1_stages'|'ResNet.dcn_v2_stages'|stage 2"),
    ("ResNet.ch_in=1000000000", "'ResNet.ch_in'"),
    ("ResNet.variant=d ResNet.ch_in=1", "'ResNet.ch_in'|'ResNet.variant'"),
    ("norm_type=ln", "'norm_type' takes one of 'bn', 'sync_bn', 'gn', got 'ln'"),
    ("ResNet.norm_type=ln", "'ResNet.norm_type'"),
    ("HybridTaskCascadeHead.semantic_fusion=[box]", "'HybridTaskCascadeHead.semantic_fusion'|'bbox', 'mask'"),
    ("HybridTaskCascadeHead.score_average=mean", "'HybridTaskCascadeHead.score_average'|probabilities"),
    (
        "num_cascade_stages=4",
        "'num_cascade_stages' (command line) is 4|'BBoxAssigner.cascade_iou'|'HybridTaskCascadeHead.bbox_stds'|"
        "'HybridTaskCascadeHead.stage_loss_weights'|at least 4",
    ),
    ("num_cascade_stages=0", "'num_cascade_stages' takes an integer between 1 and 16, got 0"),
    ("HybridTaskMaskHead.num_cascade_stages=2", "'HybridTaskMaskHead.num_cascade_stages'|'num_cascade_stages'"),
    ("HybridTaskCascadeTwoFCHead.num_cascade_stages=2", "'HybridTaskCascadeTwoFCHead.num_cascade_stages'"),
    ("BBoxAssigner.cascade_iou=[0.5]", "'BBoxAssigner.cascade_iou'|(1)|'num_cascade_stages'"),
    ("BBoxAssigner.cascade_iou=[0.5,2,0.7]", "'BBoxAssigner.cascade_iou'|between 0 and 1"),
    ("HybridTaskCascadeHead.stage_loss_weights=[1.0]", "'HybridTaskCascadeHead.stage_loss_weights'|at least 3"),
    ("HybridTaskCascadeHead.stage_loss_weights=[1,-1,1]", "'HybridTaskCascadeHead.stage_loss_weights'"),
    ("HybridTaskCascadeHead.bbox_stds=[[0.1,0.1,0.2,0.2]]", "'HybridTaskCascadeHead.bbox_stds'|at least 3"),
    ("HybridTaskCascadeHead.bbox_stds=[[0.1,0.1],[0.1,0.1],[0.1,0.1]]", "'HybridTaskCascadeHead.bbox_stds'"),
    ("HybridTaskCascadeHead.bbox_weight=[[0,0,0,0],[1,1,1,1],[1,1,1,1]]", "'HybridTaskCascadeHead.bbox_weight'"),
    ("BBoxAssigner.add_gt=[true]", "'BBoxAssigner.add_gt'|(1)"),
    ("BBoxAssigner.batch_size_per_im=0", "'BBoxAssigner.batch_size_per_im'"),
    ("BBoxAssigner.fg_fraction=2", "'BBoxAssigner.fg_fraction' takes a number between 0 and 1, got 2 (command line)"),
    ("BBoxAssigner.bg_thresh=0.9", "'BBoxAssigner.bg_thresh'|'BBoxAssigner.fg_thresh'"),
    ("RPNHead.loss_divisor=x", "'RPNHead.loss_divisor' takes one of 'drawn', 'quota', got 'x'"),
    ("RPNHead.anchor_generator.anchor_sizes=[[8],[16]]", "'RPNHead.anchor_generator.anchor_sizes'|2 levels"),
    ("RPNHead.anchor_generator.anchor_sizes=[[8],[],[8],[8],[8]]", "'RPNHead.anchor_generator.anchor_sizes'"),
    ("RPNHead.anchor_generator.anchor_sizes=[[8],[8,9],[8],[8],[8]]", "same number"),
    ("RPNHead.anchor_generator.anchor_sizes=[8,16,32,64,128]", "'RPNHead.anchor_generator.anchor_sizes'"),
    ("RPNHead.anchor_generator.aspect_ratios=[]", "'RPNHead.anchor_generator.aspect_ratios'"),
    ("RPNHead.anchor_generator.aspect_ratios=[0]", "'RPNHead.anchor_generator.aspect_ratios'"),
    ("RPNHead.anchor_generator.strides=[4,8]", "'RPNHead.anchor_generator.strides'"),
    ("RPNHead.anchor_generator.strides=[8,16,32,64,128]", "'RPNHead.anchor_generator.strides'|'FPN.extra_stage'"),
    ("FPN.extra_stage=0", "'RPNHead.anchor_generator.strides'|'FPN.extra_stage' (command line)"),
    ("RPNHead.rpn_target_assign.batch_size_per_im=0", "'RPNHead.rpn_target_assign.batch_size_per_im'"),
    ("RPNHead.rpn_target_assign.negative_overlap=0.9", "negative_overlap'|positive_overlap'"),
    ("RPNHead.train_proposal.post_nms_top_n=0", "'RPNHead.train_proposal.post_nms_top_n'"),
    ("RPNHead.test_proposal.nms_thresh=7", "'RPNHead.test_proposal.nms_thresh'"),
    (
        "HybridTaskCascadeHead.roi_extractor.resolution=6",
        "'HybridTaskCascadeHead.semantic_roi_extractor.resolution'|'HybridTaskCascadeHead.roi_extractor.resolution'",
    ),
    ("HybridTaskMaskHead.roi_extractor.resolution=13", "'HybridTaskMaskHead.roi_extractor.resolution'"),
    ("HybridTaskCascadeHead.roi_extractor.end_level=9", "'HybridTaskCascadeHead.roi_extractor.end_level'|5 levels"),
    ("HybridTaskCascadeHead.roi_extractor.start_level=4", "'HybridTaskCascadeHead.roi_extractor.start_level'"),
    ("HybridTaskCascadeHead.roi_extractor.spatial_scale=[0.5]", "spatial_scale'|remove the key"),
    ("HybridTaskCascadeTwoFCHead.resolution=9", "'HybridTaskCascadeTwoFCHead.resolution' is 9|require 7"),
    ("FPN.in_channels=[1,2,3,4]", "'FPN.in_channels'|remove the key"),
    ("MaskAssigner.mask_resolution=14", "'MaskAssigner.mask_resolution'|'HybridTaskMaskHead.roi_extractor.resolution'"),
    ("FusedSemanticHead.fusion_level=7", "'FusedSemanticHead.fusion_level'|5 levels"),
    ("FusedSemanticHead.num_convs=-1", "'FusedSemanticHead.num_convs'"),
    ("HybridTaskMaskFeat.num_convs=-1", "'HybridTaskMaskFeat.num_convs'"),
    ("FusedSemanticHead.conv_out_channels=8", "'FusedSemanticHead.conv_out_channels'|'FPN.out_channel'"),
    ("FPN.out_channel=32", "'FusedSemanticHead.conv_out_channels'|'FPN.out_channel' is 32|(command line)"),
    ("FPN.out_channel=0", "'FPN.out_channel' takes an integer between 1"),
    ("FPN.out_channel=-8", "'FPN.out_channel'"),
    ("num_classes=0", "'num_classes' takes an integer between 1"),
    ("HybridTaskCascadeHead.num_classes=3", "'HybridTaskCascadeHead.num_classes'|'num_classes'"),
    ("semantic_num_classes=256", "'semantic_num_classes'"),
    ("BBoxPostProcess.nms.nms_threshold=5", "'BBoxPostProcess.nms.nms_threshold'"),
    ("BBoxPostProcess.nms.keep_top_k=0", "'BBoxPostProcess.nms.keep_top_k' takes -1 or an integer between 1"),
    ("BBoxPostProcess.nms.score_threshold=2", "'BBoxPostProcess.nms.score_threshold'"),
    ("MaskPostProcess.binary_thresh=7", "'MaskPostProcess.binary_thresh'"),
    ("TrainReader.batch_size=0", "'TrainReader.batch_size'"),
    ("TrainReader.sample_transforms.Resize.interp=99", "'TrainReader.sample_transforms.1.Resize.interp'|got 99"),
    ("TrainReader.sample_transforms.Resize.target_size=[0,9]", "'TrainReader.sample_transforms.1.Resize.target_size'"),
    ("TrainReader.sample_transforms.RandomFlip.prob=2", "'TrainReader.sample_transforms.2.RandomFlip.prob'"),
    ("TrainReader.sample_transforms.NormalizeImage.std=[0,0,0]", "NormalizeImage.std'|above 0"),
    ("TrainReader.sample_transforms=[{Resiz: {}}]", "did you mean 'Resize'"),
    ("TrainReader.sample_transforms=[PadBatch]", "'TrainReader.sample_transforms'|'TrainReader.batch_transforms'"),
    ("LearningRate.base_lr=-1", "'LearningRate.base_lr' takes a number above 0"),
    ("LearningRate.schedulers=null", "'LearningRate.schedulers'|got null"),
    ("LearningRate.schedulers=[ResNet]", "'LearningRate.schedulers.0' cannot be ResNet"),
    ("OptimizerBuilder.optimizer.type=Momentun", "'OptimizerBuilder.optimizer.type'"),
    ("OptimizerBuilder.optimizer.beta1=2", "'OptimizerBuilder.optimizer.beta1'"),
    ("OptimizerBuilder.clip_grad_by_norm=0", "'OptimizerBuilder.clip_grad_by_norm'"),
    (
        "HybridTaskCascade.backbone=RPNHead",
        "'HybridTaskCascade.backbone' cannot be RPNHead, which has no attribute out_shape|ResNet",
    ),
    ("HybridTaskCascade.bbox_head=BBoxHead", "'HybridTaskCascade.mask_head'|MaskHead"),
    ("CascadeHead.interleaved=true", "unknown key 'CascadeHead.interleaved'|it belongs to HybridTaskCascadeHead"),
    ("architecture=FPN", "'architecture' takes a whole model"),
    ("snapshot_epoch=0", "'snapshot_epoch' takes an integer between 1"),
    ("log_iter=0", "'log_iter'"),
    ("accumulate_steps=0", "'accumulate_steps'"),
    ("epoch=-1", "'epoch'"),
    ("ema_decay=1", "'ema_decay'"),
    ("amp_level=O3", "'amp_level'"),
    ("draw_threshold=.nan", "'draw_threshold'"),
    ("worker_num=-1", "'worker_num'"),
    ("export={nmss: true}", "unknown key 'export.nmss'|did you mean 'nms'"),
    ("sync_bn=true", "'sync_bn'|norm_type: sync_bn"),
    ("log_every=5", "'log_every'|log_iter"),
    ("output_dir=x", "'output_dir'|save_dir"),
]
"""Overrides, and texts of the message (``|`` between them)."""


@pytest.fixture(scope="module")
def demo(repo_root: Path) -> Config:
    return merge_config(SMALL, load_config(str(repo_root / "configs" / "demo" / "htc_r18_demo.yml")))


@pytest.fixture
def config(demo: Config) -> Config:
    return demo.copy()


def build_all(config: Config) -> Any:
    """Build what a training builds of a configuration, and return the model."""
    model = create(config, config.architecture)
    for reader in ("TrainReader", "EvalReader", "TestReader"):
        create(config, reader)
    create(config, "OptimizerBuilder")(create(config, "LearningRate")(10), model)
    return model


@pytest.mark.parametrize(("overrides", "texts"), REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_refused_in_one_line(overrides: str, texts: str, config: Config) -> None:
    with pytest.raises(UserError) as caught:
        merge_config(parse_overrides(overrides.split(" ") if "{" not in overrides else [overrides]), config)
        build_all(config)
    message = str(caught.value)
    assert "\n" not in message and len(message) <= LONGEST_MESSAGE, message
    for text in texts.split("|"):
        assert text in message, f"'{text}' is not in: {message}"


@pytest.mark.parametrize(
    "overrides",
    [
        "num_cascade_stages=2",
        "num_cascade_stages=1",
        "ResNet.return_idx=[1,2,3] RPNHead.anchor_generator.strides=[8,16,32,64] "
        "RPNHead.anchor_generator.anchor_sizes=[[32],[64],[128],[256]]",
        "FPN.out_channel=24 FusedSemanticHead.conv_out_channels=24",
        "FusedSemanticHead.num_convs=0 HybridTaskMaskFeat.num_convs=0",
        "norm_type=gn",
        "ResNet.dcn_v1_stages=[-1]",
        "HybridTaskMaskHead.roi_extractor.end_level=-1",
        "HybridTaskCascadeTwoFCHead.resolution=7",
        "BBoxPostProcess.nms.keep_top_k=-1",
        "LearningRate.schedulers=[]",
        "OptimizerBuilder.regularizer=false",
        "use_gcu=false to_static=true fleet=true bias=0",
        "HybridTaskCascade.fused_semantic_head=null",
        "HybridTaskCascade.mask_head=null",
    ],
)
def test_still_accepted(overrides: str, config: Config) -> None:
    merge_config(parse_overrides(overrides.split(" ")), config)
    model = build_all(config)
    assert len(model.bbox_head.head) == config.num_cascade_stages


def test_no_effect_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    monkeypatch.setattr("ppdet.core.config.keys._explained", set())
    for _ in range(2):
        merge_config(parse_overrides(["to_static=true", "fleet=false"]), config)
    printed = capsys.readouterr().out
    assert printed.count("'to_static' has no effect (command line): training always runs in dynamic graph") == 1
    assert "fleet" not in printed


def test_four_stages_with_their_lists(config: Config) -> None:
    merge_config(
        {
            "num_cascade_stages": 4,
            "BBoxAssigner": {"cascade_iou": [0.5, 0.6, 0.7, 0.75]},
            "HybridTaskCascadeHead": {
                "bbox_stds": [[0.1, 0.1, 0.2, 0.2]] * 4,
                "stage_loss_weights": [1.0, 0.5, 0.25, 0.1],
            },
        },
        config,
    )
    model = build_all(config)
    assert len(model.mask_head.head) == len(model.bbox_head.head) == 4


def test_place_of_the_file_is_named(tmp_path: Path, repo_root: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        f"_BASE_: [{repo_root}/configs/demo/htc_r18_demo.yml]\n"
        "num_cascade_stages: 4\n"
        "RPNHead:\n  anchor_generator: {strides: [4, 8]}\n"
    )
    config = load_config(str(path))
    with pytest.raises(
        ConfigError, match=r"anchor_sizes' \(.*r18_demo\.yml, line \d+\) has 5 .*strides' \(.*mine\.yml, l"
    ):
        create(config, "RPNHead")
    merge_config({"RPNHead": {"anchor_generator": {"strides": [4, 8, 16, 32, 64]}}, **SMALL}, config)
    with pytest.raises(ConfigError, match=r"'num_cascade_stages' \(.*mine\.yml, line 2\) is 4"):
        create(config, "HybridTaskCascade")


# ---------------------------------------- from the declarations
ANY = (float("nan"), math.inf, 2**63, "x", "", [[{}]], {"a": 1}, [None], [0] * 5000)


def beyond(annotation: Any) -> Iterator[Any]:
    """Yield values just beyond the ranges of an annotation, and such that fit hardly any."""
    for choice in alternatives(annotation):
        for limit in typing.get_args(choice)[1:] if typing.get_origin(choice) is Annotated else ():
            if isinstance(limit, Interval):
                yield from () if limit.low is None else (limit.low if limit.open_low else limit.low - 1,)
                yield from () if limit.high is None else (limit.high if limit.open_high else limit.high + 1,)
            elif isinstance(limit, OneOf):
                yield from ("nothing", 99)
    yield from (
        math.nan,
        math.inf,
        -math.inf,
        2**63,
        10**400,
        "x",
        "",
        None,
        True,
        [],
        {},
        {"a": 1},
        [None],
        [0] * 5000,
    )


def declarations() -> Iterator[tuple[str, Any, bool]]:
    """Yield every parameter of a class and every key of the run: dotted key, annotation, whether it takes an object."""
    for name in registered_names():
        info = class_info(name)
        if info.cls.__module__.startswith("ppdet."):
            for parameter, annotation in info.annotations.items():
                has_default = info.parameters[parameter].default is None
                takes_object = parameter in (*info.inject, *info.operations)
                yield f"{name}.{parameter}", Optional[annotation] if has_default else annotation, takes_object
    for key, annotation in RUNTIME_KEYS.items():
        yield key, annotation, False


def test_every_declared_range_is_kept() -> None:
    tried = 0
    for key, annotation, takes_object in declarations():
        values = (0, True, 1.5, "Nothing", {"name": 3}) if takes_object else beyond(annotation)
        section, _, parameter = key.partition(".")
        for value in values:
            if not takes_object and matches(value, annotation):
                continue
            trial = Config()
            if parameter:
                trial[section] = ConfigDict()
                trial[section].put(parameter, clone(value), "here")
            else:
                trial.put(key, clone(value), "here")
            with pytest.raises(ConfigError) as caught:
                validate(trial)
            message = str(caught.value)
            assert f"'{key}" in message and "(here)" in message, f"{key} = {value!r}: {message}"
            assert "\n" not in message and len(message) <= LONGEST_MESSAGE, message
            tried += 1
    assert tried > 1000


def test_classes_check_what_python_gives_them() -> None:
    tried = 0
    for name in registered_names():
        info = class_info(name)
        required = [p for p in info.parameters.values() if p.default is inspect.Parameter.empty]
        if not info.cls.__module__.startswith("ppdet.") or required:
            continue
        for parameter, annotation in info.annotations.items():
            limits = [limit for limit in typing.get_args(annotation)[1:] if isinstance(limit, Interval)]
            if limits and limits[0].low is not None:
                with pytest.raises(ValueError, match=f"'{name}.{parameter}' takes .*, got "):
                    info.cls(**{parameter: limits[0].low - 1})
                tried += 1
    assert tried > 50


# ---------------------------------------- any value anywhere
HOSTILE = (
    0,
    -1,
    2**63,
    math.inf,
    math.nan,
    "",
    [],
    {},
    None,
    True,
    "x",
    [0],
    [[1, "a"], {"b": [None]}],
    {"name": "FPN"},
)


def places(node: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a configuration."""
    node = node.arguments if isinstance(node, Descriptor) else node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from places(value, (*prefix, key))


def put(config: Config, path: tuple[Any, ...], value: Any) -> None:
    """Replace the value at a path."""
    node: Any = config
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


def test_any_value_anywhere(demo: Config) -> None:
    """A sample of what was tried in full: 20 values at 364 keys."""
    every = [(path, value) for path in places(demo) for value in HOSTILE]
    outcomes = {"refused": 0, "built": 0}
    for path, value in random.Random(12).sample(every, 250):
        trial = clone(demo)
        put(trial, path, clone(value))
        try:
            validate(trial)
            build_all(trial)
            outcomes["built"] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) <= LONGEST_MESSAGE, error
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, path))} = {value!r}") from error
    assert outcomes["refused"] > 150 and outcomes["built"] > 5, outcomes


# ---------------------------------------- the model and its data
@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("TrainDataset.semantic=null", ("TrainDataset.semantic", "HybridTaskCascade.fused_semantic_head")),
        ("TrainDataset.data_fields=[image,gt_bbox,gt_class,is_crowd]", ("'gt_poly'", "HybridTaskCascade.mask_head")),
        ("TrainDataset.data_fields=[image]", ("'gt_bbox'", "TrainDataset.data_fields")),
        ("TrainDataset.data_fields=[image,gt_box]", ("TrainDataset.data_fields", "gt_bbox")),
        ("FusedSemanticHead.semantic_num_classes=20", ("HybridTaskCascade.fused_semantic_head", "20", "12")),
        ("TrainDataset.semantic={kind: jpg}", ("TrainDataset.semantic.kind", "'png'")),
        ("num_cascade_stages=4", ("BBoxAssigner.cascade_iou", "command line")),
    ],
)
def test_training_asks_first_whether_the_data_fit(bench: Bench, override: str, names: tuple[str, ...]) -> None:
    bench.refused("train", "-o", override, names=names)


def test_evaluation_asks_first_whether_the_data_fit(bench: Bench) -> None:
    model = ("HybridTaskCascadeHead.num_classes=5", "BBoxAssigner.num_classes=5", "HybridTaskMaskHead.num_classes=5")
    message = bench.refused("train", "--eval", "-o", *model, names=("5 classes", "num_classes to 6"))
    assert message.startswith("the model has 5 classes, but TrainDataset has 6")


@pytest.mark.parametrize("folder", [None, 5, ["a"]])
def test_deployed_predictor_takes_a_folder(folder: Any) -> None:
    with pytest.raises(UserError, match="model_dir"):
        Predictor(folder)
