"""Images of all kinds are either read correctly or refused with an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy.common.image_io import decode_image, read_image
from ppdet.utils.errors import UserError

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def scene() -> np.ndarray:
    """Create an image with smooth colours, uint8 RGB, that JPEG preserves within a few gray levels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], 2).clip(0, 255).astype(np.uint8)


def jpeg(scene: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene).save(stream, "JPEG", quality=98, subsampling=0, **options)
    return stream.getvalue()


def close(a: np.ndarray, b: np.ndarray, levels: int = 6) -> bool:
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= levels


def test_colours_are_rgb(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), scene)


def test_gray_becomes_three_equal_channels(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(scene[..., :1], 3, 2))


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, scene: np.ndarray) -> None:
    deep = (scene[..., 0].astype(np.uint16) << 8) | 0x9C
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 1], scene[..., 0])


def test_alpha_and_palette(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).convert("RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), scene)
    flat = Image.fromarray(scene).quantize(16)
    flat.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.array(flat.convert("RGB")))


def test_cmyk_agrees_with_pillow(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert close(read_image(tmp_path / "a.jpg"), np.array(Image.open(tmp_path / "a.jpg").convert("RGB")), 3)


@pytest.fixture
def turned(tmp_path: Path, scene: np.ndarray) -> Path:
    """Create a JPEG whose EXIF orientation requires a rotation by 90 degrees to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(jpeg(scene, exif=exif))
    return tmp_path / "turned.jpg"


def test_exif_orientation_is_applied(turned: Path, scene: np.ndarray) -> None:
    upright = np.rot90(scene, -1)
    assert close(read_image(turned), upright)
    assert close(read_image(turned, (WIDTH, HEIGHT)), upright)


def test_exif_orientation_yields_to_the_annotated_size(turned: Path, scene: np.ndarray) -> None:
    assert close(read_image(turned, (HEIGHT, WIDTH)), scene)


def test_another_size_than_annotated_is_refused(turned: Path) -> None:
    with pytest.raises(UserError, match=r"turned\.jpg is 48 x 64 .* but 20 x 10 in its annotation"):
        read_image(turned, (10, 20))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_jpeg(tmp_path: Path, scene: np.ndarray, share: float) -> None:
    data = jpeg(scene)
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut\.jpg is truncated"):
        read_image(tmp_path / "cut.jpg")


def test_end_marker_of_a_thumbnail_does_not_count(tmp_path: Path, scene: np.ndarray) -> None:
    data = jpeg(scene)
    thumbnail = jpeg(scene[::8, ::8])
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert close(read_image(tmp_path / "whole.jpg"), scene)
    (tmp_path / "cut.jpg").write_bytes(whole[:-200])
    with pytest.raises(UserError, match="truncated"):
        read_image(tmp_path / "cut.jpg")


def test_bytes_behind_the_end_are_harmless(tmp_path: Path, scene: np.ndarray) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(scene) + bytes(100))
    assert close(read_image(tmp_path / "a.jpg"), scene)


def test_truncated_png(tmp_path: Path, scene: np.ndarray) -> None:
    Image.fromarray(scene).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.png is truncated"):
        read_image(tmp_path / "a.png")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, words in (("text.jpg", "broken"), ("empty.jpg", "empty"), ("none.jpg", "not exist")):
        with pytest.raises(UserError, match=words) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)


def test_bytes_in_memory_follow_the_same_rules(turned: Path, scene: np.ndarray) -> None:
    data = turned.read_bytes()
    np.testing.assert_array_equal(decode_image(data, "upload"), read_image(turned))
    assert close(decode_image(data, "upload", (HEIGHT, WIDTH)), scene)
    for broken, words in ((data[:-100], "truncated"), (b"no picture", "broken"), (b"", "empty")):
        with pytest.raises(UserError, match=f"the image upload is .*{words}"):
            decode_image(broken, "upload")
