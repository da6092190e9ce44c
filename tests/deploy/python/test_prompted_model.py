"""A graph of another family through deployment: no boxes, masks over the network input, an extra input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec
from pycocotools import mask as coco_mask

from deploy.common.bounded_yaml import dump_plain
from deploy.common.errors import UserError
from deploy.python import Predictor, infer

CONFIG: dict[str, Any] = {
    "mask": True,
    "mask_frame": "image",
    "inputs": ["image", "im_shape", "scale_factor", "prompt"],
    "outputs": ["instances", "bbox_num", "mask", "mask_extent"],
    "extra_inputs": [{"name": "prompt", "shape": ["B", 2], "dtype": "float32"}],
    "Preprocess": [
        {"type": "Resize", "target_size": [32, 64], "keep_ratio": True, "interp": 1},
        {"type": "NormalizeImage", "mean": [0, 0, 0], "std": [1, 1, 1], "is_scale": True},
        {"type": "Permute"},
        {"type": "PadStride", "stride": 32},
    ],
    "label_list": ["spot"],
    "category_ids": [7],
}


class Spot(nn.Layer):
    """One object an image: the 2 x 2 cells of 8 x 8 around the cell corner (x, y) that is prompted."""

    def __init__(self) -> None:
        super().__init__()
        # Distances of 8 columns from x and of 8 rows from y.
        self.distance = nn.Linear(2, 16)
        self.distance.weight.set_value(-np.repeat(np.eye(2, dtype=np.float32), 8, axis=1))
        self.distance.bias.set_value(np.tile(np.arange(8, dtype=np.float32) + 0.5, 2))

    def forward(self, image: Any, im_shape: Any, scale_factor: Any, prompt: Any) -> tuple[Any, ...]:
        near = (self.distance(prompt).abs() < 1).astype("float32")
        one = prompt[:, 0] * 0 + 1 + im_shape[:, 0] * 0
        sides = paddle.to_tensor([32.0, 64.0])  # of the padded input
        count = one.astype("int32")
        instances = paddle.stack([one * 0, one * 0.75 + image.mean() * 0], axis=1)
        # Not a division: oneDNN in Paddle 2.6 swaps dividend and divisor if the dividend has fewer axes.
        return (
            instances,
            count,
            paddle.matmul(near[:, 8:].unsqueeze(2), near[:, :8].unsqueeze(1)),
            sides * scale_factor.reciprocal(),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model, and two pictures of half and of a third of its input's size."""
    path = tmp_path_factory.mktemp("spot")
    shapes = {"image": [None, 3, None, None], "im_shape": [None, 2], "scale_factor": [None, 2], "prompt": [None, 2]}
    specs = [InputSpec(shape, "float32", name) for name, shape in shapes.items()]
    net = paddle.jit.to_static(Spot(), input_spec=specs, full_graph=True)
    paddle.jit.save(net, str(path / "model"))
    (path / "infer_cfg.yml").write_text(dump_plain(CONFIG))
    for name, size in (("a.png", (16, 32)), ("b.png", (64, 128))):
        cv2.imwrite(str(path / name), np.full((*size, 3), 90, np.uint8))
    return path


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder)


def image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_masks_lie_where_the_prompt_says(predictor: Predictor) -> None:
    assert (
        not predictor.has_boxes and predictor.has_masks and [one.name for one in predictor.extra_inputs] == ["prompt"]
    )
    # Inputs of 32 x 64 have cells of 4 x 8 pixels, of the originals 2 x 4 and 8 x 16.
    small, large = predictor.predict([image(16, 32), image(64, 128)], extra={"prompt": [[2, 3], [6, 5]]})
    assert small.boxes is None and small.masks is not None and small.masks.frame == "image"
    assert small.masks.extent == (16, 32) and large.masks is not None and large.masks.extent == (64, 128)
    assert small.bounding_boxes.tolist() == [[4, 4, 12, 8]] and large.bounding_boxes.tolist() == [[80, 32, 112, 48]]
    boxes, (mask,) = large.to_coco(3)
    assert boxes == [] and mask["category_id"] == 7 and mask["score"] == 0.75
    assert 0.85 * 32 * 16 <= coco_mask.area(mask["segmentation"]) <= 32 * 16
    np.testing.assert_array_equal(predictor(image(16, 32), {"prompt": [2, 3]}).bitmap(0), small.bitmap(0))


@pytest.mark.parametrize(
    ("extra", "culprit"),
    [
        (None, r"extra: the extra input prompt \(float32 \[2\]\) is missing"),
        (
            {"prompt": [[1, 2], [3, 4]]},
            r"'prompt' has the shape \[2, 2\]; expected float32 \[1, 2\]",
        ),
        ({"prompt": [[1, 2]], "x": 1}, "'x' is not an extra input"),
    ],
)
def test_extra_inputs_that_do_not_fit(predictor: Predictor, extra: Any, culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        predictor.predict([image(16, 32)], extra)


Run = Callable[..., int]


@pytest.fixture
def run(folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command line tool on the pictures; results are in ``tmp_path/out``."""
    monkeypatch.setattr(infer, "Predictor", lambda *_: predictor)

    def call(*arguments: str) -> int:
        standard = ["--model_dir", str(folder), "--image_dir", str(folder), "--output_dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["infer.py", *standard, *arguments])
        return infer.main()

    return call


def test_the_command_line_reads_them_from_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"a.png": {"prompt": [2, 3]}, "b.png": {"prompt": [6, 5]}, "c.png": 5}))
    assert run("--extra_inputs", str(file), "--batch_size", "2", "--save_results", "--save_polygons") == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "mask.json", "polygons"]
    rows = json.loads((out / "mask.json").read_text())
    assert [(row["file_name"], row["category_id"]) for row in rows] == [("a.png", 7), ("b.png", 7)]
    told = json.loads((out / "polygons" / "b.json").read_text())["objects"][0]
    assert told["bbox"] == [80, 32, 32, 16] and told["score"] == 0.75 and len(told["polygons"]) == 1
    picture = cv2.imread(str(out / "b.png"))
    assert (picture[36:44, 84:108] != 90).any(axis=2).all() and (picture[56:, :70] == 90).all()
    assert run("--extra_inputs", str(file), "--run_benchmark") == 0


def test_the_command_line_without_them(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"requires extra inputs for each image, prompt .*: add --extra_inputs"):
        run()
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"a.png": {"prompt": [2, 3]}}))
    with pytest.raises(UserError, match=r"prompts\.json has no entry for the image b\.png"):
        run("--extra_inputs", str(file))
    assert not (tmp_path / "out" / "a.png").exists()


def test_a_graph_that_does_not_fit_its_description(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "infer_cfg.yml").write_text(dump_plain({**CONFIG, "inputs": None, "extra_inputs": None}))
    with pytest.raises(UserError, match=r"requires the inputs prompt, which infer_cfg\.yml does not describe"):
        Predictor(tmp_path)
    changed = {**CONFIG, "outputs": [*CONFIG["outputs"], "mask_score"]}
    (tmp_path / "infer_cfg.yml").write_text(dump_plain(changed))
    with pytest.raises(UserError, match="returns 4 outputs instead of 5"):
        Predictor(tmp_path).predict([image(16, 32)], {"prompt": [[1, 2]]})
