"""A data set of coloured squares, easy enough to be learned within seconds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

COLOURS = ((200, 30, 30), (30, 200, 30))


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``images`` (eight of 96x64) and ``annotations.json``, a red and a green square in each."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(1, 9):
        image = np.full((64, 96, 3), 40, np.uint8)
        for category, colour in enumerate(COLOURS, start=1):
            x, y = (48 * (category - 1) + int(rng.integers(2, 20)), int(rng.integers(2, 36)))
            image[y : y + 24, x : x + 24] = colour
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": 0,
                    "bbox": [x, y, 24, 24],
                    "area": 24 * 24,
                    "segmentation": [[x, y, x + 24, y, x + 24, y + 24, x, y + 24]],
                }
            )
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), image[..., ::-1])
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 96, "height": 64})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder
