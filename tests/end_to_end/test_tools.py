"""The commands of the README on a small run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tests.end_to_end.conftest import Workplace

SEMANTIC = {
    "png": "TrainDataset.semantic={kind: png, dir: stuffthingmaps/train}",
    "instances": "TrainDataset.semantic={kind: instances, background: class}",
    "none": "TrainDataset.semantic=null",
}


@pytest.fixture(scope="module")
def trained(workplace: Workplace) -> Path:
    """Folder of a run that trained and evaluated."""
    printed = workplace.tool("train", "--eval")
    assert printed.count("Average Precision") == printed.count("Average Recall") == 2 * 12  # epochs
    for name in (" loss ", "(rpn ", " box ", " mask ", " semantic ", " lr ", " eta ", " img/s"):
        assert name in printed
    columns = (workplace.folder / "output" / "small" / "train_scalars.csv").read_text().splitlines()[0].split(",")
    assert {"loss_rpn_cls", "loss_semantic", "loss_bbox_reg_stage2", "loss_mask_stage2"} <= set(columns)
    assert "nan" not in printed.lower().replace("nanosec", "")
    return workplace.folder / "output" / "small"


def test_train_writes_checkpoints(trained: Path) -> None:
    for name in ("0", "model_final", "best_model"):
        resumable = {".pdopt"} if name != "best_model" else set()
        assert {p.suffix for p in trained.glob(f"{name}.*")} == {".pdparams", ".safetensors"} | resumable
    assert not list(trained.glob(".tmp-*"))


def test_eval(workplace: Workplace, trained: Path) -> None:
    printed = workplace.tool(
        "eval", "-o", f"weights={trained / 'model_final'}", "--output_eval", "results", "--classwise"
    )
    assert printed.count("Average Precision") == 12
    assert "star" in printed
    for kind in ("bbox", "mask"):
        rows = json.loads((workplace.folder / "results" / f"{kind}.json").read_text())
        assert all({"image_id", "category_id", "score"} <= set(row) for row in rows)


def test_infer(workplace: Workplace, trained: Path) -> None:
    image = sorted((workplace.folder / "data" / "val").glob("*.jpg"))[0]
    weights = f"weights={trained / 'model_final.pdparams'}"
    workplace.tool("infer", "-o", weights, f"--infer_img={image}", "--output_dir", "pictures", "--draw_threshold=0.01")
    picture, original = cv2.imread(str(workplace.folder / "pictures" / image.name)), cv2.imread(str(image))
    assert picture.shape == original.shape


def test_resume(workplace: Workplace, trained: Path) -> None:
    printed = workplace.tool("train", "-r", str(trained / "0"), "-o", "epoch=2")
    assert "Epoch 2/2" in printed and "Epoch 1/2" not in printed


@pytest.mark.parametrize("kind", ["instances", "none"])
def test_other_semantic_maps(workplace: Workplace, kind: str) -> None:
    options = [SEMANTIC[kind], "epoch=1", f"save_dir={workplace.folder}/{kind}"]
    options.append("HybridTaskCascade.fused_semantic_head=null" if kind == "none" else "semantic_num_classes=7")
    printed = workplace.tool("train", "--eval", "-o", *options)
    assert (" semantic " in printed) == (kind == "instances")
    assert printed.count("Average Precision") == 12


def test_without_mask_head(workplace: Workplace) -> None:
    options = ["HybridTaskCascade.mask_head=null", "epoch=1", f"save_dir={workplace.folder}/boxes"]
    printed = workplace.tool("train", "--eval", "-o", *options)
    assert " mask " not in printed and " box " in printed
    assert printed.count("Average Precision") == 6


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["epochs=3"], "epoch"),
        (["TrainDataset.anno_path=nowhere.json"], "nowhere.json"),
        (["HybridTaskCascade.mask_head=HybridTaskMaskHed"], "HybridTaskMaskHead"),
        (["num_classes=5"], "num_classes"),
        (["TrainDataset.semantic={kind: png, dir: nowhere}"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(workplace: Workplace, options: list[str], culprit: str) -> None:
    printed = workplace.tool("train", "-o", "run_name=mistaken", *options, code=1)
    assert "Traceback" not in printed
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and culprit in errors[0]


def test_missing_weights_is_one_line(workplace: Workplace) -> None:
    printed = workplace.tool("eval", "-o", "weights=nowhere/model_final", code=1)
    assert "Traceback" not in printed and "nowhere/model_final" in printed
