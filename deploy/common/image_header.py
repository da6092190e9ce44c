"""Headers of image files: format and number of pixels.

A few bytes can claim gigabytes of pixels, so the header is checked before an image is decoded. Sizes refer to the
stored pixels, before the EXIF orientation is applied.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Header", "foreign_format", "format_name", "read_header"]


@dataclass(frozen=True)
class Header:
    """The claims of an image header.

    Attributes:
        format: name of the format.
        height: height of the stored image.
        width: width of the stored image.
        block: number of pixels of the largest block that a decoder allocates at once (a TIFF tile or strip), including
            padding; 0 for formats without blocks.
        depth: bits per pixel for formats that do not limit them; otherwise 0.
        animated: whether the file contains an animation.
    """

    format: str
    height: int
    width: int
    block: int = 0
    depth: int = 0
    animated: bool = False


def read_header(data: bytes) -> Header | None:
    """Read the header of an image in one of the supported formats.

    Args:
        data: content of the file.

    Returns:
        The header, or None if the format is not supported or the header is incomplete.
    """
    name = format_name(data)
    try:
        return _READERS[name][1](name, data) if name else None
    except (struct.error, ValueError, LookupError):  # the header is incomplete or invalid
        return None


def format_name(data: bytes) -> str | None:
    """Return the format of an image according to its first bytes; None if it is not supported."""
    for name, (pattern, _) in _READERS.items():
        if re.match(pattern, data[:64], re.DOTALL):
            return name
    return None


def foreign_format(data: bytes) -> str | None:
    """Describe a file that is not a supported image, according to its first bytes; None if the type is unknown."""
    for pattern, name in _FOREIGN.items():
        if re.match(pattern, data[:256], re.DOTALL | re.IGNORECASE):
            return name
    return None


def _png(name: str, data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise ValueError("no IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    return Header(name, height, width, animated=b"acTL" in data[33:1024])


def _jpeg(name: str, data: bytes) -> Header:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in (0x01, *range(0xD0, 0xD8)):  # marker without a length
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header(name, height, width)
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise ValueError("no frame")


def _bmp(name: str, data: bytes) -> Header:
    core = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
    return Header(name, abs(height), abs(width))


def _gif(name: str, data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header(name, height, width)


def _webp(name: str, data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[begin : begin + 3], "little") + 1 for begin in (24, 27))
        return Header(name, height, width, animated=bool(data[20] & 2))
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header(name, (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header(name, height & 0x3FFF, width & 0x3FFF)


def _netpbm(name: str, data: bytes) -> Header:
    text = re.sub(rb"#[^\n]*\n", b" ", data[2:4096])
    width, height = (int(part) for part in text.split(maxsplit=2)[:2])
    return Header(name, height, width)


def _jpeg2000(name: str, data: bytes) -> Header:
    begin = data.index(b"\xff\x4f\xff\x51")
    right, bottom, left, top = struct.unpack_from(">IIII", data, begin + 8)
    return Header(name, bottom - top, right - left)


def _avif(name: str, data: bytes) -> Header:
    sizes = [
        struct.unpack(">II", match.group(1)) for match in re.finditer(rb"ispe.{4}(.{8})", data[: 2**16], re.DOTALL)
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(name, height, width)


def _tiff(name: str, data: bytes) -> Header:
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, first)[0]
    begin, entry = first + (8 if big else 2), 20 if big else 12
    tags: dict[int, int] = {}
    for place in range(begin, begin + entry * min(count, 1000), entry):
        tag, kind, length = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        offset = place + (12 if big else 8)
        if code is None or length < 1:
            continue
        if length * struct.calcsize(code) > (8 if big else 4):  # the entry contains the offset of the values
            offset = struct.unpack_from(order + ("Q" if big else "I"), data, offset)[0]
        tags[tag] = struct.unpack_from(order + code, data, offset)[0]
    width, height = tags[256], tags[257]
    across, down = tags.get(322, width), tags.get(323, min(tags.get(278, height), height))
    depth = tags.get(258, 1) * tags.get(277, 1)
    return Header(name, height, width, block=across * down, depth=depth)


_READERS: Mapping[str, tuple[bytes, Callable[[str, bytes], Header]]] = {
    "JPEG": (rb"\xff\xd8\xff", _jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png),
    "BMP": (rb"BM", _bmp),
    "WebP": (rb"RIFF....WEBP", _webp),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", _tiff),
    "GIF": (rb"GIF8[79]a", _gif),
    "JPEG 2000": (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", _jpeg2000),
    "PNM": (rb"P[1-6]\s", _netpbm),
    "AVIF": (rb"....ftyp.{0,40}avi[fs]", _avif),
}
"""Supported formats: pattern of the first bytes, and function that reads the header."""

_FOREIGN = {
    rb"....ftyp(hei|hev|mif1|msf1)": "a HEIC image",
    rb"....ftyp(qt|isom|mp4|iso|M4V|avc1)": "a video",
    rb"\x1a\x45\xdf\xa3": "a video",
    rb"RIFF....AVI ": "a video",
    rb"(\xff\x0a|\0\0\0\x0cJXL )": "a JPEG XL image",
    rb"8BPS": "a Photoshop document",
    rb"%PDF": "a PDF document",
    rb"(%!PS|\xc5\xd0\xd3\xc6)": "a PostScript file",
    rb"(\xef\xbb\xbf)?\s*(<\?xml.*|<!--.*)?<svg": "an SVG drawing",
    rb"(\xef\xbb\xbf)?\s*<(!doctype )?html": "an HTML page (a failed download)",
    rb"(\xef\xbb\xbf)?\s*<\?xml": "an XML document",
    rb"version https://git-lfs": "a Git LFS pointer (fetch the file itself with git lfs pull)",
    rb"\0\0[\1\2]\0": "a Windows icon",
    rb"PK\x03\x04": "a ZIP archive",
    rb"\x1f\x8b": "a gzip archive",
    rb"SIMPLE  =": "a FITS image",
    rb"\x93NUMPY": "a NumPy array",
    rb".{128}DICM": "a DICOM image",
    rb"v/1\x01": "an OpenEXR image",
}
"""Patterns of the first bytes of files that are commonly mistaken for images, and descriptions of these files."""
