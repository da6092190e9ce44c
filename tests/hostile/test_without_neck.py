"""Detectors on the backbone's own feature maps: what works runs through all tools, what cannot work says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.conftest import Bench

C4 = """
_BASE_: ['{base}']
architecture: MaskRCNN
epoch: 1
MaskRCNN: {{neck: null}}
ResNet: {{return_idx: [2], num_stages: 3}}
RPNHead:
  anchor_generator: {{strides: [16], anchor_sizes: [[8, 16, 32, 64]]}}
TwoFCHead: {{out_channel: 16}}
MaskFeat: {{num_convs: 1, out_channel: 16}}
"""
"""One map of stride 16 with anchors of four sizes, no neck: a composition in YAML alone."""

ANCHORS = "RPNHead.anchor_generator"
ONE_MAP = ["ResNet.return_idx=[2]", f"{ANCHORS}.strides=[16]", f"{ANCHORS}.anchor_sizes=[[8,16,32]]"]
REFUSED = [
    ([], ("'HybridTaskCascade.neck'", "'ResNet.return_idx'", "[8, 16, 32, 64] channels", f"'{ANCHORS}.strides'")),
    (
        ["ResNet.return_idx=[2]", "FusedSemanticHead.fusion_level=0"],
        (f"'{ANCHORS}.strides'", "'ResNet.return_idx'", "to [16], with a list of anchor_sizes"),
    ),
    (ONE_MAP, ("'FusedSemanticHead.fusion_level'", "1 level", "at most 0")),
    (
        [*ONE_MAP, "FusedSemanticHead.fusion_level=0"],
        ("'FusedSemanticHead.conv_out_channels'", "is 16", "'ResNet.return_idx'", "a map with 32"),
    ),
]


@pytest.mark.parametrize(("options", "names"), REFUSED, ids=["channels", "strides", "level", "semantic channels"])
def test_refused(bench: Bench, options: list[str], names: tuple[str, ...]) -> None:
    bench.refused("train", "-o", "HybridTaskCascade.neck=null", *options, names=names)


def test_one_map_without_neck_through_all_tools(bench: Bench, repo_root: Path) -> None:
    config = bench.write("c4.yml", C4.format(base=bench.config))
    weights = f"weights={bench.folder}/output/c4/model_final"
    bench.accepted("train", config=config)
    bench.accepted("eval", "-o", weights, config=config)
    pictures = str(bench.data / "val")
    bench.accepted("infer", "--infer_dir", pictures, "--save_results", "-o", weights, config=config)
    assert json.loads((bench.folder / "output" / "bbox.json").read_text()) is not None
    bench.accepted("export_model", "--output_dir", str(bench.folder / "exported"), "-o", weights, config=config)
    assert (bench.folder / "exported" / "c4" / "infer_cfg.yml").is_file()
