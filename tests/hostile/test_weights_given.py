"""Weights that are not what a tool can use."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet.checkpoint.weight_files import write_state
from ppdet.checkpoint.weights import state_arrays
from ppdet.core.workspace import create, load_config
from tests.hostile.conftest import Bench


def arrays_of(bench: Bench) -> dict[str, np.ndarray]:
    """Tensors of the bench's model, untrained."""
    config = load_config(str(bench.config))
    return state_arrays(create(config, config.architecture))


def test_a_folder_is_answered_with_what_is_in_it(bench: Bench) -> None:
    write_state(arrays_of(bench), bench.folder / "best_model")
    bench.refused("eval", "-o", f"weights={bench.folder}", names=("is a folder", "weights=", "best_model"))
    bench.refused("train", "-o", f"pretrain_weights={bench.folder}", names=("is a folder", "best_model"))
    empty = bench.folder / "empty"
    empty.mkdir()
    bench.refused("eval", "-o", f"weights={empty}", names=("without checkpoints", "name a weight file"))


def test_names_near_those_of_the_zoo(bench: Bench) -> None:
    bench.refused("eval", "-o", "weights=htc_r50_fpn_1x", names=("weights=htc_r50_fpn_1x_coco", "do not exist"))
    bench.refused("eval", "-o", "weights=zoo://htc_r50_1x", names=("zoo has no such name", "htc_r50_fpn_1x_coco"))
    bench.refused("eval", "-o", "weights=zoo://x", names=("zoo has no such name", "README.md"))
    bench.refused("eval", "-o", "weights=http://example.org/x.pth", names="https only")


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        ("depth", ("2-2-2-2", "pretrain_weights", "ResNet.depth")),
        ("missing", ("it lacks backbone.res4.res4a.branch2a.norm._mean", "pretrain_weights")),
        ("heads", ("0 of 105 tensors fit", "pretrain_weights")),
        ("foreign", ("no tensor of this model", "encoder.weight")),
    ],
)
def test_a_start_without_the_backbone(bench: Bench, spoil: str, names: tuple[str, ...]) -> None:
    arrays = arrays_of(bench)
    if spoil == "missing":
        del arrays["backbone.res4.res4a.branch2a.norm._mean"]
    if spoil == "heads":
        arrays = {name: array for name, array in arrays.items() if not name.startswith("backbone.")}
    if spoil == "foreign":
        arrays = {"encoder.weight": np.ones(3, np.float32)}
    write_state(arrays, bench.folder / "start")
    depth = ["ResNet.depth=34"] if spoil == "depth" else []
    bench.refused("train", "-o", f"pretrain_weights={bench.folder / 'start'}", *depth, names=names)


def test_a_deformable_model_starts_from_a_plain_one(bench: Bench) -> None:
    write_state(arrays_of(bench), bench.folder / "start")
    options = [f"pretrain_weights={bench.folder / 'start'}", "ResNet.dcn_v1_stages=[3]", "epoch=1"]
    printed = bench.accepted("train", "-o", *options)
    assert "backbone 105 of 109" in printed.out + printed.err
