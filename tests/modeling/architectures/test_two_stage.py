"""What two-stage detectors declare to training, evaluation, prediction and export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppdet.core.workspace import Config, create, load_config, merge_config
from ppdet.engine.data import EvalData
from ppdet.export.description import inference_config
from ppdet.structures.categories import Categories
from ppdet.utils.cli import parse_overrides

SMALL = "ResNet.ch_in=8 FPN.out_channel=16 HybridTaskCascadeTwoFCHead.out_channel=16 HybridTaskMaskFeat.out_channel=8"


def config_of(root: Path, *overrides: str) -> Config:
    """The demo's HTC with few channels."""
    config = load_config(str(root / "configs/demo/htc_r18_demo.yml"))
    small = f"{SMALL} FusedSemanticHead.conv_out_channels=16".split()
    return merge_config(parse_overrides([*small, *overrides]), config)


@pytest.mark.parametrize(
    ("override", "threshold"),
    [
        ("HybridTaskCascade.mask_post_process={name: MaskPostProcess, binary_thresh: 0.3}", 0.3),
        ("HybridTaskCascade.mask_post_process.binary_thresh=0.3", 0.3),
        ("MaskPostProcess.binary_thresh=0.3", 0.3),
        ("HybridTaskCascade.mask_post_process=null", 0.5),
        ("log_iter=1", 0.5),
    ],
)
def test_the_threshold_of_masks_has_an_effect_wherever_it_is_set(
    override: str, threshold: float, repo_root: Path
) -> None:
    config = config_of(repo_root, override)
    model = create(config, config.architecture)
    assert model.mask_threshold == threshold  # what predict_images pastes with
    data = EvalData(SimpleNamespace(has_annotations=False), SimpleNamespace(), {})  # type: ignore[arg-type]
    assert data.metric(model).threshold == threshold
    about = inference_config(config, model, Categories.numbered(6))
    assert about["mask_threshold"] == threshold


@pytest.mark.parametrize(
    ("overrides", "fields", "outputs"),
    [
        (
            [],
            {"boxes": "", "masks": "mask_head", "semantic": "fused_semantic_head"},
            ("bbox", "bbox_num", "mask"),
        ),
        (
            ["HybridTaskCascade.mask_head=null", "HybridTaskCascade.fused_semantic_head=null"],
            {"boxes": ""},
            ("bbox", "bbox_num"),
        ),
    ],
)
def test_declarations_follow_the_parts(
    overrides: list[str], fields: dict[str, str], outputs: tuple[str, ...], repo_root: Path
) -> None:
    config = config_of(repo_root, *overrides)
    model = create(config, config.architecture)
    assert model.training_fields == fields and model.output_names == outputs
    assert list(model.parts()) == ["backbone + neck", "RPN", "box stages", *(["masks"] if "masks" in fields else [])]
    assert model.num_classes == 6 and model.semantic_num_classes == (12 if "semantic" in fields else None)
    about: dict[str, Any] = inference_config(config, model, Categories.numbered(6))
    assert about["inputs"] == ["image", "im_shape", "scale_factor"] and about["outputs"] == list(outputs)
    assert about["arch"] == "RCNN" and about["min_subgraph_size"] == 40 and "extra_inputs" not in about
    assert about["mask"] is ("masks" in fields) and about.get("mask_frame") == ("box" if "masks" in fields else None)
