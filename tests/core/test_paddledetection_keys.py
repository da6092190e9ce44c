"""PaddleDetection's keys for the stds of box deltas become ``bbox_stds`` when a configuration is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppdet.core.workspace import Config, ConfigError, create, dump_config, load_config, merge_config
from ppdet.utils.cli import parse_overrides

CASCADE = "architecture: CascadeRCNN\nuse_gpu: false\n"
MASK = "architecture: MaskRCNN\nuse_gpu: false\n"
WEIGHTS = "[[10, 10, 5, 5], [20, 20, 10, 10], [40, 40, 20, 20]]"
SMALL = "ResNet: {depth: 18, ch_in: 8}\nFPN: {out_channel: 8}\nTwoFCHead: {out_channel: 8}\n"
LAST_KEY = r"'BBoxPostProcess\.decode\.prior_box_var'"
FIRST, SECOND, THIRD = (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)
LAST = (1 / 30, 1 / 30, 1 / 15, 1 / 15)


def load(folder: Path, *files: str) -> Config:
    """Load files of which each has the one before it as its base."""
    for index, text in enumerate(files):
        base = f"_BASE_: {index - 1}.yml\n" if index else ""
        (folder / f"{index}.yml").write_text(base + text)
    return load_config(str(folder / f"{len(files) - 1}.yml"))


def stds(config: Config, head: str = "CascadeHead") -> list[tuple[float, ...]]:
    """The stds of a built box head."""
    built: list[tuple[float, ...]] = create(config, head).bbox_stds
    return built


def prior(values: str = "[30, 30, 15, 15]") -> str:
    return f"BBoxPostProcess: {{decode: {{name: RCNNBox, prior_box_var: {values}}}}}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([CASCADE], [FIRST, SECOND, THIRD]),
        ([CASCADE + f"CascadeHead: {{bbox_weight: {WEIGHTS}}}"], [FIRST, SECOND, (0.025, 0.025, 0.05, 0.05)]),
        ([CASCADE + "BBoxPostProcess: {decode: RCNNBox}"], [FIRST, SECOND, THIRD]),
        ([CASCADE + prior()], [FIRST, SECOND, LAST]),
        ([CASCADE + prior("null") + "CascadeHead: {bbox_weight: null}"], [FIRST, SECOND, THIRD]),
        # the decoder comes before the architecture is known
        ([prior(), CASCADE], [FIRST, SECOND, LAST]),
        ([CASCADE + "BBoxPostProcess: {decode: RCNNBox}\nRCNNBox: {prior_box_var: [30, 30, 15, 15]}"],
         [FIRST, SECOND, LAST]),
        # a later file overrides, under whichever key
        ([CASCADE + f"CascadeHead: {{bbox_weight: {WEIGHTS}}}", prior()], [FIRST, SECOND, LAST]),
        ([CASCADE + prior(), f"CascadeHead: {{bbox_weight: {WEIGHTS}}}"], [FIRST, SECOND, (0.025, 0.025, 0.05, 0.05)]),
        ([CASCADE + f"CascadeHead: {{bbox_weight: {WEIGHTS}}}",
          "CascadeHead: {bbox_stds: [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 2]]}"], [(1,) * 4, (1,) * 4, (2,) * 4]),
        # the same values twice in one file
        ([CASCADE + prior("[40, 40, 20, 20]") + f"CascadeHead: {{bbox_weight: {WEIGHTS}}}"],
         [FIRST, SECOND, (0.025, 0.025, 0.05, 0.05)]),
        ([CASCADE + "num_cascade_stages: 2\n" + prior()], [FIRST, LAST]),
    ],
)  # fmt: skip
def test_cascade(tmp_path: Path, files: list[str], expected: list[tuple[float, ...]]) -> None:
    config = load(tmp_path, *files)
    assert stds(config) == [pytest.approx(entry, rel=1e-9) for entry in expected]
    text = dump_config(config)
    assert "bbox_weight" not in text and "prior_box_var" not in text
    (tmp_path / "again.yml").write_text(text)
    assert stds(load_config(str(tmp_path / "again.yml"))) == stds(config)


@pytest.mark.parametrize("text", ["BBoxHead: {bbox_weight: [20, 20, 10, 10]}", prior("[20, 20, 10, 10]")])
def test_one_stage(tmp_path: Path, text: str) -> None:
    config = load(tmp_path, MASK + text)
    assert config.BBoxHead.bbox_stds == [0.05, 0.05, 0.1, 0.1]
    assert stds(config, "BBoxHead") == [SECOND]


def test_arguments_beside_the_name_of_the_head(tmp_path: Path) -> None:
    inline = "CascadeRCNN: {bbox_head: {name: CascadeHead, bbox_weight: " + WEIGHTS + "}, mask_head: null}\n"
    config = load(tmp_path, CASCADE + SMALL + inline + "CascadeTwoFCHead: {out_channel: 8}\n")
    assert stds_of_model(config)[2] == pytest.approx((0.025, 0.025, 0.05, 0.05))
    merge_config(parse_overrides(["BBoxPostProcess.decode={name: RCNNBox, prior_box_var: [30, 30, 15, 15]}"]), config)
    assert stds_of_model(config) == [FIRST, SECOND, pytest.approx(LAST)]
    merge_config(parse_overrides(["CascadeRCNN.bbox_head.bbox_weight=[[2,2,2,2],[4,4,4,4],[8,8,8,8]]"]), config)
    assert stds_of_model(config) == [(0.5,) * 4, (0.25,) * 4, (0.125,) * 4]


def stds_of_model(config: Config) -> Any:
    return create(config, config.architecture).bbox_head.bbox_stds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CASCADE + "CascadeHead: {bbox_weight: [[0, 1, 1, 1]]}",
         r"'CascadeHead\.bbox_weight' takes .*above 0.* \(.*0\.yml, line 3\)$"),
        (CASCADE + "CascadeHead: {bbox_weight: 3}", r"'CascadeHead\.bbox_weight' takes .* got 3 \(.*0\.yml, line 3\)$"),
        (CASCADE + prior("[30]"), LAST_KEY + r" takes .*4 entries.*, got \[30\] \(.*line 3\)$"),
        (CASCADE + f"CascadeHead: {{bbox_weight: {WEIGHTS},\n  bbox_stds: [[1,1,1,1],[1,1,1,1],[1,1,1,1]]}}",
         r"'CascadeHead\.bbox_weight' \(.*line 3\) and 'CascadeHead\.bbox_stds' \(.*line 4\) set different std"),
        (CASCADE + f"CascadeHead: {{bbox_weight: {WEIGHTS}}}\n" + prior(),
         LAST_KEY + r" \(.*line 4\) and 'CascadeHead\.bbox_weight' \(.*line 3\) set different stds for the last"),
        (prior(), LAST_KEY + r" \(.*line 1\) applies to the box head, but 'architecture' is not set: remove the key"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_that_was_written(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_lists_that_are_too_short_have_the_key_that_was_written(tmp_path: Path) -> None:
    config = load(tmp_path, CASCADE + "CascadeHead: {bbox_weight: [[10, 10, 5, 5]]}")
    with pytest.raises(ConfigError, match=r"'CascadeHead\.bbox_weight' \(.*0\.yml, line 3\)"):
        create(config, "CascadeHead")
    config = load(tmp_path, CASCADE + prior() + "num_cascade_stages: 5\n")
    with pytest.raises(ConfigError, match=r"'CascadeHead\.bbox_stds'"):
        create(config, "CascadeHead")
