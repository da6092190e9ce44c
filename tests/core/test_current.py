"""Several configurations in one process: each object is built from its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ppdet.core import registry
from ppdet.core.workspace import (
    Config,
    ConfigError,
    create,
    current_config,
    dump_config,
    load_config,
    merge_config,
    register,
)

SMALL = {"use_gpu": False, "pretrain_weights": None, "ResNet": {"depth": 18, "ch_in": 8}, "FPN": {"out_channel": 16}}
MASK = {**SMALL, "num_classes": 3, "TwoFCHead": {"out_channel": 16}, "MaskFeat": {"num_convs": 1, "out_channel": 8}}
HTC = {
    **SMALL,
    "num_classes": 5,
    "HybridTaskCascadeTwoFCHead": {"out_channel": 16},
    "HybridTaskMaskFeat": {"num_convs": 1, "out_channel": 8},
    "FusedSemanticHead": {"num_convs": 1, "conv_out_channels": 16},
}


@pytest.fixture
def pair(repo_root: Path) -> tuple[Config, Config]:
    """A Mask R-CNN with three classes and an HTC with five, both loaded."""
    mask = load_config(str(repo_root / "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yml"))
    htc = load_config(str(repo_root / "configs/htc/htc_r50_fpn_1x_coco.yml"))
    return merge_config(MASK, mask), merge_config(HTC, htc)


def facts(model: Any) -> tuple[str, int, int]:
    """Class of a model, its number of classes, and the stages of its box head."""
    head = model.bbox_head
    return type(model).__name__, head.num_classes, len(head.bbox_stds)


def test_each_model_is_built_from_its_own_configuration(pair: tuple[Config, Config]) -> None:
    mask, htc = pair
    expected = {"MaskRCNN": ("MaskRCNN", 3, 1), "HybridTaskCascade": ("HybridTaskCascade", 5, 3)}
    for config in (mask, htc, mask):
        model = create(config, config.architecture)
        assert facts(model) == expected[config.architecture]
        with config.as_current():  # PaddleDetection's form
            model = create(config.architecture)
            assert create("LearningRate").base_lr == config.LearningRate.base_lr
        assert facts(model) == expected[config.architecture]
    assert mask.architecture != htc.architecture


def test_readers_take_sections_of_operations_from_their_own_configuration(pair: tuple[Config, Config]) -> None:
    mask, htc = pair
    merge_config({"NormalizeImage": {"mean": [0.1, 0.2, 0.3]}}, mask)
    for transforms in (["NormalizeImage"], [{"NormalizeImage": {}}], [{"name": "NormalizeImage"}]):
        merge_config({"EvalReader": {"sample_transforms": transforms}}, mask)
        readers = [create(mask, "EvalReader"), create(htc, "EvalReader", sample_transforms=transforms)]
        means = [list(reader.transforms[0].mean) for reader in readers]
        assert means == [[0.1, 0.2, 0.3], [0.485, 0.456, 0.406]]


def test_call_that_could_mean_either_is_refused(pair: tuple[Config, Config]) -> None:
    mask, htc = pair
    files = "(mask_rcnn_r50_fpn_1x_coco.yml, htc_r50_fpn_1x_coco.yml)"
    for call, name in (
        (lambda: create("MaskRCNN"), "create('MaskRCNN')"),
        (lambda: create(mask["EvalDataset"]), "create(!COCODataSet"),
        (lambda: merge_config({"epoch": 3}), "merge_config(overrides)"),
        (lambda: dump_config(), "dump_config()"),
        (current_config, "current_config()"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(name) and "\n" not in message
        assert f"which of the 2 loaded configurations {files} it refers to" in message
        assert "'with config.as_current():'" in message
    with pytest.raises(ConfigError, match=r"write create\(config, 'MaskRCNN'\), or call it inside"):
        create("MaskRCNN")


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_one_after_the_other_as_in_a_loop(tmp_path: Path) -> None:
    for rate in (0.5, 0.25):
        cfg = load_config(write(tmp_path, f"{rate}.yml", f"LearningRate: {{base_lr: {rate}}}\n"))
        assert create("LearningRate").base_lr == rate and current_config() is cfg
    cfg.as_itself = cfg  # a cycle keeps it until the collector runs
    cfg = load_config(write(tmp_path, "last.yml", "LearningRate: {base_lr: 0.125}\n"))
    assert create("LearningRate").base_lr == 0.125


def test_equal_configurations_are_not_ambiguous(tmp_path: Path) -> None:
    path = write(tmp_path, "same.yml", "LearningRate: {base_lr: 0.5}\n")
    first, second = load_config(path), load_config(path)
    assert create("LearningRate").base_lr == 0.5
    merge_config({"LearningRate": {"base_lr": 0.25}}, second)
    with pytest.raises(ConfigError, match="which of the 2 loaded configurations"):
        create("LearningRate")
    assert [create(config, "LearningRate").base_lr for config in (first, second)] == [0.5, 0.25]


def test_nothing_loaded_means_the_defaults() -> None:
    assert create("RandomFlip").prob == 0.5
    merge_config({"RandomFlip": {"prob": 0.25}})
    assert create("RandomFlip").prob == 0.25
    assert create(Config(), "RandomFlip").prob == 0.5


def test_blocks_nest_and_end_with_an_exception(tmp_path: Path) -> None:
    outer, inner = (Config(RandomFlip={"prob": prob}) for prob in (0.1, 0.2))
    seen: list[float] = []
    with outer.as_current():
        with pytest.raises(KeyError), inner.as_current():
            seen.append(create("RandomFlip").prob)
            load_config(write(tmp_path, "c.yml", "RandomFlip: {prob: 0.9}\n"))
            seen.append(create("RandomFlip").prob)
            raise KeyError
        seen.append(create("RandomFlip").prob)
        thread = threading.Thread(target=lambda: seen.append(create("RandomFlip").prob))
        thread.start()
        thread.join()
    seen.append(create("RandomFlip").prob)
    assert seen == [0.2, 0.2, 0.1, 0.9, 0.9]  # a thread starts outside of the blocks of the others


class Wrapper:
    """Names its parts in the way of PaddleDetection: as strings, without ``__inject__``."""

    def __init__(self, flip: Any, part: str = "RandomFlip") -> None:
        self.flip, self.again = flip, create(part)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {"flip": create(cfg["part"])}


def test_parts_named_by_strings_come_from_the_same_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register(Wrapper)
    for prob in (0.1, 0.2):
        built = create(Config(RandomFlip={"prob": prob}), "Wrapper")
        assert (built.flip.prob, built.again.prob) == (prob, prob)


def test_wrong_calls() -> None:
    with pytest.raises(TypeError, match="create takes the configuration and what to build"):
        create(Config())
    with pytest.raises(TypeError, match="create takes"):
        create("RandomFlip", "Resize")
