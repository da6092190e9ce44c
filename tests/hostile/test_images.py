"""Image files that claim too much, are something else, or are broken: refused by name, before memory is taken."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy.common.errors import UserError
from deploy.common.image_header import read_header
from deploy.common.image_io import decode_image, read_image
from ppdet.data.label_maps import read_label_map
from tests.hostile.conftest import Bench


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int]], big: bool = False) -> bytes:
    """A TIFF of tags (kind, value) and a few bytes of pixels."""
    entry = "<HHQQ" if big else "<HHII"
    entries = b"".join(struct.pack(entry, tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
    if big:
        return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) + entries + bytes(64)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(64)


def tiled(width: int, height: int, tile: int, **more: int) -> bytes:
    numbers = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile, 324: 200, 325: 64}
    return tiff({tag: (4, value) for tag, value in numbers.items()})


def encoded(kind: str, pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)


KINDS = [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("JPEG2000", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_headers_tell_the_size(kind: str, options: dict[str, Any], pixels: np.ndarray) -> None:
    data = encoded(kind, pixels, **options)
    header = read_header(data)
    assert header is not None and (header.height, header.width) == (37, 53)
    assert decode_image(data, "a", (37, 53)).shape == (37, 53, 3)
    for end in range(0, min(len(data), 400), 7):  # whatever is missing, there is an answer and no exception
        cut = read_header(data[:end])
        assert cut is None or (cut.height, cut.width) == (37, 53) or end < 60


def test_headers_of_random_bytes(pixels: np.ndarray) -> None:
    """A flipped byte anywhere in a header leads to a header, or to none; and decoding to pixels or a message."""
    rng = np.random.default_rng(1)
    for kind, options in KINDS:
        data = bytearray(encoded(kind, pixels[:9, :9], **options))
        for _ in range(60):
            spoilt = bytearray(data)
            spoilt[int(rng.integers(4, min(len(data), 250)))] = int(rng.integers(256))
            read_header(bytes(spoilt))
            try:
                assert decode_image(bytes(spoilt), "spoilt.img").ndim == 3
            except UserError as error:
                assert "the image spoilt.img" in str(error)


CLAIMS = {
    "PNG beyond OpenCV": (
        png(60000, 60000),
        None,
        "claims 60000 x 60000 pixels .* more than OpenCV can decode .*tiles",
    ),
    "PNG of a long side": (png(2**21, 2), None, "claims 2097152 x 2 pixels .* more than OpenCV can decode"),
    "PNG bomb": (png(30000, 30000), None, "claims 30000 x 30000 pixels .* decompression bomb"),
    "PNG without pixels": (png(0, 5), None, "claims 0 x 5 pixels"),
    "PNG beside its annotation": (png(30000, 30000), (40, 60), "is 30000 x 30000 pixels .* 60 x 40 in its annotation"),
    "PNG within the bound": (png(9000, 9000), (40, 60), "is 9000 x 9000 pixels .* 60 x 40 in its annotation"),
    "WebP bomb": (b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x30\x75\0" * 2 + bytes(9), None, "30001 x 30001"),
    "BMP bomb": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 30000, -30000) + bytes(90), None, "claims 30000 x 30000"),
    "GIF of another size": (b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(20), (40, 60), "is 60000 x 60000"),
    "PNM bomb": (b"P6\n# a comment\n30000 30000\n255\n" + bytes(99), None, "claims 30000 x 30000"),
    "TIFF tile": (tiled(40, 60, 2**15), None, "tiles of 1073741824 pixels"),
    "TIFF tile annotated": (tiled(60, 40, 2**15), (40, 60), "tiles of 1073741824 pixels"),
    "TIFF depth": (tiff({256: (4, 9), 257: (4, 9), 258: (3, 64), 277: (3, 999)}), None, "of 63936 bits"),
    "BigTIFF bomb": (tiff({256: (16, 30000), 257: (16, 30000)}, big=True), None, "claims 30000 x 30000"),
    "JPEG 2000 bomb": (b"\xff\x4f\xff\x51\0\x2f\0\0" + struct.pack(">IIII", 30000, 30000, 0, 0), None, "30000 x 30000"),
    "JPEG bomb": (
        b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", 60000, 60000) + bytes(9) + b"\xff\xda" + b"\xff\xd9",
        None,
        "claims 60000 x 60000",
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_are_bounded_before_decoding(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, size, words = CLAIMS[case]
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("decoded"))
    with pytest.raises(UserError, match=rf"^the image bomb\.img .*{words}"):
        decode_image(data, "bomb.img", size)


def test_a_service_refuses_what_is_not_decoded() -> None:
    uploads = pytest.importorskip("deploy.serving.uploads")
    with pytest.raises(uploads.Refusal, match=r"^the image that was uploaded .* tiles of 1073741824 pixels") as caught:
        uploads.decode(tiled(40, 60, 2**15))
    assert caught.value.status == 400


def test_a_large_image_of_a_fitting_file_is_decoded() -> None:
    """An image that is all one colour, larger than the pictures of any data set here."""
    data = cv2.imencode(".png", np.full((3000, 4000, 3), 7, np.uint8))[1].tobytes()
    assert len(data) * 100 < 3000 * 4000, "far more pixels than bytes"
    assert decode_image(data, "flat.png").shape == (3000, 4000, 3)
    with pytest.raises(UserError, match=r"flat\.png is 4000 x 3000 pixels .* but 60 x 40 in its annotation"):
        decode_image(data, "flat.png", (40, 60))


def test_ordinary_tiles_larger_than_the_image(pixels: np.ndarray, tmp_path: Path) -> None:
    data = bytearray(tiled(40, 60, 256))
    header = read_header(bytes(data))
    assert header is not None and header.block == 256 * 256
    with pytest.raises(UserError, match="broken TIFF"):  # its tile is missing; the header alone is no reason
        decode_image(bytes(data), "small.tif")


FOREIGN = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image.*convert it to JPEG or PNG"),
    "SVG": (b"<?xml version='1.0'?>\n<svg xmlns=''></svg>", "an SVG drawing.*convert it to JPEG or PNG"),
    "PDF": (b"%PDF-1.7\n", "a PDF document.*convert it to JPEG or PNG"),
    "HTML": (b"<!DOCTYPE html><html>Not found</html>", "an HTML page .a failed download"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer .*git lfs pull"),
    "JPEG XL": (b"\xff\x0a\xfa\x7f", "a JPEG XL image.*convert"),
    "video": (b"\0\0\0\x18ftypisom", "a video"),
    "Photoshop": (b"8BPS\0\1", "a Photoshop document.*convert"),
    "text": (b"hello", "broken or has an unsupported format; convert it to JPEG or PNG"),
    "half a header": (b"\x89PNG\r\n\x1a\nIEND\xaeB`\x82", "a broken PNG without a complete header"),
    "broken pixels": (png(60, 60), "a broken PNG; copy it again"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_reason_is_the_true_one(case: str) -> None:
    data, words = FOREIGN[case]
    with pytest.raises(UserError, match=rf"^the image odd\.jpg is .*{words}"):
        decode_image(data, "odd.jpg")


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_animations_are_read_or_named(kind: str, pixels: np.ndarray) -> None:
    data = encoded(kind, pixels, save_all=True, append_images=[Image.fromarray(255 - pixels)])
    try:
        assert decode_image(data, "moving").shape == pixels.shape  # the first picture of it
    except UserError as error:
        assert f"OpenCV {cv2.__version__} does not support" in str(error) and "JPEG or PNG" in str(error)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: it is a folder"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png cannot be read: it is not a regular file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_image("a\0b")


def test_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match=r"huge\.png has 2147483648 bytes, more than OpenCV can decode"):
        read_image(tmp_path / "huge.png")


def test_memory_stays_small(tmp_path: Path, repo_root: Path) -> None:
    """Measured in a process of its own: a bomb of 900 million pixels costs next to nothing."""
    data = png(30000, 30000)
    (tmp_path / "bomb.png").write_bytes(data)
    (tmp_path / "tile.tif").write_bytes(tiled(40, 60, 2**15))
    code = (
        "import resource, sys\n"
        "from deploy.common.image_io import read_image\n"
        "from deploy.common.errors import UserError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    for size in (None, (60, 40)):\n"
        "        try:\n"
        "            read_image(name, size)\n"
        "        except UserError:\n"
        "            continue\n"
        "        sys.exit('not refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bomb.png"), str(tmp_path / "tile.tif")]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50 * 1024, "kilobytes"


MAPS = {
    "floats": (lambda: encoded("TIFF", np.ones((4, 6), np.float32)), "holds float32 numbers: labels are integers"),
    "NaN": (lambda: encoded("TIFF", np.full((4, 6), np.nan, np.float32)), "holds float32 numbers"),
    "a bomb for Pillow": (lambda: png(30000, 30000, colour=0), "has 30000 x 30000 pixels .* its image has 6 x 4"),
    "a large tile": (lambda: tiled(6, 4, 2**15), "tiles of 1073741824 pixels"),
    "lossy labels": (lambda: encoded("JPEG", np.ones((4, 6), np.uint8)), "cannot be read: .*not one of PNG"),
    "negative labels": (lambda: encoded("TIFF", np.full((4, 6), -3, np.int32)), "holds the label -3"),
    "a text": (lambda: b"labels", "cannot be read"),
    "nothing": (lambda: b"", "cannot be read"),
    "half a file": (lambda: encoded("PNG", np.ones((4, 6), np.uint8))[:40], "cannot be read"),
}


@pytest.mark.parametrize("case", MAPS)
def test_semantic_maps(tmp_path: Path, case: str) -> None:
    make, words = MAPS[case]
    (tmp_path / "map.png").write_bytes(make())
    with pytest.raises(UserError, match=rf"semantic map.*{words}|map\.png \(a semantic map\).*{words}") as caught:
        read_label_map(tmp_path / "map.png", 5, (4, 6))
    assert "map.png" in str(caught.value)


def test_spoilt_semantic_maps(tmp_path: Path) -> None:
    """A flipped byte leads to labels or to a message."""
    labels = np.arange(24).reshape(4, 6).astype(np.uint8) % 5
    rng = np.random.default_rng(2)
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        data = encoded(kind, labels)
        for _ in range(80):
            spoilt = bytearray(data)
            spoilt[int(rng.integers(len(data)))] = int(rng.integers(256))
            (tmp_path / "map.png").write_bytes(spoilt)
            try:
                assert read_label_map(tmp_path / "map.png", 5, (4, 6)).shape == (4, 6)
            except UserError as error:
                assert "map.png" in str(error)


def test_a_legitimate_map_beyond_pillows_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map as large as its image is no bomb, whatever Pillow's default says; its bound comes back afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (tmp_path / "map.png").write_bytes(encoded("PNG", np.ones((40, 60), np.uint8)))
    assert read_label_map(tmp_path / "map.png", 5, (40, 60)).sum() == 2400
    assert Image.MAX_IMAGE_PIXELS == 10


def test_training_names_the_bomb(bench: Bench) -> None:
    content = bench.annotations()
    first = content["images"][0]
    for image in content["images"]:
        data = png(30000, 30000) if image is first else (bench.data / "train" / image["file_name"]).read_bytes()
        bench.write(f"pictures/{image['file_name']}", data)
    where = [
        f"TrainDataset.image_dir={bench.folder / 'pictures'}",
        f"TrainDataset.anno_path={bench.write('a.json', content)}",
    ]
    bench.refused("train", "-o", *where, names=(first["file_name"], "30000 x 30000", "belongs to the images"))
