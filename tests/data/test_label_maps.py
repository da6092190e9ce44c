"""Label maps of all kinds are either read correctly or refused with an error that names the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppdet.data.label_maps import read_label_map
from ppdet.utils.errors import UserError


def test_label_map(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "gray.png")
    palette = Image.fromarray(labels)
    palette.putpalette([value for index in range(256) for value in (255 - index, index // 2, 7)])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.repeat(labels[..., None], 3, 2)).save(tmp_path / "equal.png")
    for name in ("gray.png", "palette.png", "equal.png"):
        read = read_label_map(tmp_path / name, 3, (2, 3))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 3), 3, np.uint8), r"holds the label 3: labels must be in 0\.\.2"),
        (np.full((2, 3), 300, np.uint16), "holds the label 300"),
        (np.full((3, 3), 1, np.uint8), r"3 x 3 pixels .* its image has 3 x 2"),
        (np.arange(18).reshape(2, 3, 3).astype(np.uint8), "colour image"),
    ],
)
def test_unfit_label_map(tmp_path: Path, values: np.ndarray, words: str) -> None:
    cv2.imwrite(str(tmp_path / "map.png"), values)
    with pytest.raises(UserError, match=words) as caught:
        read_label_map(tmp_path / "map.png", 3, (2, 3))
    assert "map.png" in str(caught.value)


def test_broken_label_map(tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    with pytest.raises(UserError, match=r"map\.png cannot be read"):
        read_label_map(tmp_path / "map.png", 3, (2, 3))
    with pytest.raises(UserError, match=r"none\.png does not exist"):
        read_label_map(tmp_path / "none.png", 3, (2, 3))
