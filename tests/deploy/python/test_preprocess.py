"""Pre-processing that is bit-identical to the data loader of the project."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploy.common.errors import UserError
from deploy.common.image_io import read_image
from deploy.python import Predictor
from deploy.python.preprocess import Preprocessing
from ppdet.data.collate import PadBatch, collate
from ppdet.data.transform import operators
from ppdet.structures.sample import Sample
from tests.deploy.python.conftest import SIZES, Exported, Recorded

ARRAYS = ("image", "im_shape", "scale_factor")


def _same(got: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    assert sorted(got) == sorted(ARRAYS)
    for name in ARRAYS:
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], expected[name])


def test_a_batch_of_four_sizes(exported: Exported, predictor: Predictor) -> None:
    got = predictor.preprocess([read_image(path) for path in exported.pictures])
    assert got["image"].shape == (4, 3, 96, 96)
    assert got["im_shape"].tolist() == [[64, 82], [96, 48], [64, 64], [21, 96]]
    _same(got, exported.together.batch)


@pytest.mark.parametrize("place", range(len(SIZES)))
def test_single_images(exported: Exported, predictor: Predictor, place: int) -> None:
    recorded: Recorded = exported.alone[place]
    _same(predictor.preprocess([read_image(exported.pictures[place])]), recorded.batch)


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("steps", "stride"),
    [
        ([("Resize", {"target_size": [50, 70], "keep_ratio": False, "interp": 2}), ("NormalizeImage", {})], 32),
        ([("Resize", {"target_size": 48}), ("NormalizeImage", {"mean": MEAN, "std": STD, "is_scale": False})], 1),
        ([("Resize", {"target_size": [40, 60]}), ("Resize", {"target_size": [33, 35], "keep_ratio": False})], 0),
        ([("NormalizeImage", {"norm_type": "none"}), ("Resize", {"target_size": [40, 60]})], 128),
        ([], 16),
    ],
)
def test_other_steps(steps: list[tuple[str, dict[str, Any]]], stride: int) -> None:
    if all(kind != "NormalizeImage" for kind, _ in steps):
        steps = [*steps, ("NormalizeImage", {})]
    steps = [*steps, ("Permute", {})]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]
    samples = []
    for image in images:
        sample = Sample("", 0, (image.shape[0], image.shape[1]))
        sample.image, sample.im_shape = image, (image.shape[0], image.shape[1])
        for kind, arguments in steps:
            sample = getattr(operators, kind)(**arguments)(sample, rng)
        samples.append(sample)
    usual = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}
    entries: list[dict[str, Any]] = []
    for kind, arguments in steps:
        entries.append({"type": kind, **(usual if kind == "NormalizeImage" else {}), **arguments})
    preprocessing = Preprocessing.from_config([*entries, {"type": "PadStride", "stride": stride}], "infer_cfg.yml")
    _same(preprocessing(images), collate(samples, PadBatch(stride), training=False))


NORMALIZE = {"type": "NormalizeImage", "mean": MEAN, "std": STD, "is_scale": False}


@pytest.mark.parametrize(
    ("entries", "culprit"),
    [
        (None, "Preprocess must be a list"),
        (["Resize"], "Preprocess must be a list"),
        ([{"type": "Resize", "target_size": [64, 96]}, {"type": "Permute"}], "NormalizeImage and Permute"),
        (
            [NORMALIZE, {"type": "Permute"}, {"type": "WarpAffine"}],
            "the step WarpAffine of Preprocess is not supported",
        ),
        ([{"type": "Resize", "target_size": [0, 96]}], r"step Resize .* target_size is \[0, 96\]"),
        ([{"type": "Resize", "target_size": [64, 96], "scale": 2}], "step Resize .* .scale."),
        ([{**NORMALIZE, "std": [1, 0, 1]}], "step NormalizeImage .* std"),
        ([{**NORMALIZE, "mean": [1]}], "step NormalizeImage .* lists of three finite numbers"),
        ([{**NORMALIZE, "norm_type": "max"}], "norm_type is max"),
        ([{"type": "PadStride", "coarsest_stride": 32}], "step PadStride .* 'coarsest_stride'"),
    ],
)
def test_unknown_steps_are_named(entries: Any, culprit: str) -> None:
    with pytest.raises(UserError, match=rf"^x/infer_cfg.yml.*{culprit}"):
        Preprocessing.from_config(entries, "x/infer_cfg.yml")


def test_a_graph_of_a_fixed_size() -> None:
    steps = [NORMALIZE, {"type": "Permute"}, {"type": "PadStride", "stride": 32}]
    image = np.full((40, 50, 3), 255, np.uint8)
    fixed = Preprocessing.from_config(steps, "infer_cfg.yml", [3, 96, -1])([image])["image"]
    assert fixed.shape == (1, 3, 96, 64)
    assert (fixed[..., :40, :50] > 2).all() and not fixed[..., 40:, :].any() and not fixed[..., 50:].any()
    with pytest.raises(UserError, match="the width 50 after resizing, but the graph was exported for 48"):
        Preprocessing.from_config(steps, "infer_cfg.yml", [3, 96, 48])([image])
    with pytest.raises(UserError, match=r"infer_cfg.yml: image_shape is \[96, 48\]"):
        Preprocessing.from_config(steps, "infer_cfg.yml", [96, 48])
