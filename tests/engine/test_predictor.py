"""Which images are meant, what the pictures are called, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from pycocotools import mask as coco_mask

from deploy.common.image_files import Images
from ppdet.data.source.image_folder import ImageFolder
from ppdet.engine.data import EvalData
from ppdet.engine.predictor import PredictOptions, predict_images
from ppdet.modeling.architectures import Architecture
from ppdet.structures.predictions import Predictions


class _Model(Architecture):
    """Two detections on the first image (one of them weak), none on the second."""

    mask_frame = "box"

    def __init__(self, probability: float = 1.0, mask_threshold: float = 0.5) -> None:
        super().__init__()
        self.probability = probability
        self.mask_threshold = mask_threshold

    def forward(self, batch: dict[str, Any]) -> Predictions:  # type: ignore[override]
        """Return the same for every batch."""
        return Predictions(
            scores=paddle.to_tensor([0.9, 0.3]),
            labels=paddle.to_tensor([1, 0]),
            counts=paddle.to_tensor([2, 0], "int32"),
            boxes=paddle.to_tensor([[4, 4, 20, 24], [0, 0, 8, 8]], "float32"),
            masks=paddle.full([2, 28, 28], self.probability),
        )


class _Loader(list):
    """One batch of two images; a third was skipped."""

    dataset: ImageFolder
    skipped: list[tuple[int, str]]
    batch_size = 2
    images: Images


def _loader(tmp_path: Path) -> _Loader:
    paths = []
    for place, height in enumerate((80, 70)):
        paths.append(str(tmp_path / f"{place}.png"))
        cv2.imwrite(paths[-1], np.full((height, 64, 3), 90, np.uint8))
    loader = _Loader(
        [
            {
                "image": paddle.zeros([2, 3, 4, 4]),
                "im_id": paddle.to_tensor([0, 1]),
                "orig_size": np.array([[80, 64], [70, 64]]),
            }
        ]
    )
    loader.dataset = ImageFolder(num_classes=2)
    loader.dataset.set_images(paths)
    loader.skipped = [(2, "the image 2.png is broken")]
    loader.images = Images([*paths, "2.png"], ["0.png", "1.png", "2.png"])
    return loader


def test_writes_pictures_and_results(tmp_path: Path) -> None:
    loader = _loader(tmp_path)
    out = tmp_path / "out"
    options = PredictOptions(str(out), draw_threshold=0.5, save_threshold=0.2, save_results=True)
    assert predict_images(_Model(), loader, loader.images, options) == 1
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "bbox.json", "mask.json"]
    first, second = cv2.imread(str(out / "0.png")), cv2.imread(str(out / "1.png"))
    assert first.shape == (80, 64, 3) and (second == 90).all()
    assert (first[8:20, 8:16] != 90).any() and (first[60:] == 90).all()
    boxes = json.loads((out / "bbox.json").read_text())
    assert [(row["category_id"], row["bbox"], row["file_name"]) for row in boxes] == [
        (2, [4, 4, 16, 20], "0.png"),
        (1, [0, 0, 8, 8], "0.png"),
    ]
    assert len(json.loads((out / "mask.json").read_text())) == 2
    options = PredictOptions(str(tmp_path / "none"), visualize=False)
    assert predict_images(_Model(), loader, loader.images, options) == 0
    assert not list((tmp_path / "none").iterdir())


@pytest.mark.parametrize(("threshold", "covered"), [(0.3, 16 * 20), (0.6, 0)])
def test_the_models_own_threshold_decides_everywhere(threshold: float, covered: int, tmp_path: Path) -> None:
    """On masks of 0.5 everywhere: in the JSON, in the picture and in an evaluation."""
    out = tmp_path / "out"
    model, loader = _Model(0.5, threshold), _loader(tmp_path)
    predict_images(model, loader, loader.images, PredictOptions(str(out), save_results=True))
    (row,) = json.loads((out / "mask.json").read_text())
    assert coco_mask.area(row["segmentation"]) == covered
    inside = cv2.imread(str(out / "0.png"))[16:20, 8:16]  # below the label, within the frame
    assert (inside != 90).all() == (covered > 0)
    assert EvalData(SimpleNamespace(has_annotations=False), loader, {}).metric(model).threshold == threshold
