"""Reading images, from files or from memory; whatever is wrong with one is said with its name."""

from __future__ import annotations

import os
import stat

import cv2
import numpy as np

from deploy.common.errors import UserError
from deploy.common.image_header import Header, foreign_format, format_name, read_header

__all__ = ["check_block", "check_claims", "decode_image", "read_bytes", "read_image"]

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"

_MOST_BYTES = 2**31 - 1
"""Largest file that OpenCV decodes from memory."""

_MOST_PIXELS, _LONGEST_SIDE = 2**30, 2**20
"""OpenCV decodes nothing larger."""

_FREE_PIXELS, _PIXELS_PER_BYTE = 100_000_000, 100
"""A file may hold this many pixels, or this many for each of its bytes: a photograph has one to twenty a byte, and an
image that is all one colour may have a thousand, but then it has to be of an ordinary size."""

_SMALL, _BLOCK_SHARE = 4_194_304, 4
"""So many pixels are decoded whatever the annotation says, to tell their true size. A tile of a TIFF may hold as many,
or this many times those of the whole image."""

_DEEPEST = 256
"""Bits of a pixel: four channels of 64."""

_CONVERT = "convert it to JPEG or PNG"


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as RGB; see `decode_image`.

    Args:
        path: the file.
        size: (h, w) of the image in the annotation file, if there is one.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        UserError: a missing, truncated or broken file, one of a format that is not read here, one of another size than
            ``size``, or one that claims more pixels than a file of its size may hold.
    """
    return decode_image(read_bytes(path), os.fspath(path), size)


def decode_image(data: bytes, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the bytes of an image file as RGB.

    Gray, palette, CMYK, 16-bit images and images with an alpha channel become 8-bit RGB (16 bits lose the lower
    eight, alpha is dropped). The EXIF orientation is applied, as viewers and the official code do, unless the image
    has the annotated size only without it: then the annotations were drawn on the pixels as stored.

    Args:
        data: content of the file.
        name: what complaints call the image.
        size: (h, w) of the image in the annotation file, if there is one.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        UserError: an empty, truncated or broken image, one of a format that is not read here, one of another size than
            ``size``, or one that claims more pixels than a file of its size may hold. All that the header tells is
            checked before anything is decoded.
    """
    if not data:
        raise UserError(f"the image {name} is an empty file")
    if _is_truncated(data):
        raise UserError(f"the image {name} is truncated (its end is missing): copy it again or leave it out")
    header = read_header(data)
    if header is None:
        raise UserError(f"the image {name} {_what_is_wrong(data)}")
    check_claims(header, len(data), name, size)
    image = _decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"the image {name} {_why_not_decoded(header)}")
    if size is not None and image.shape[:2] != tuple(size):
        stored = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or stored.shape[:2] != tuple(size):
            raise _other_size(name, (image.shape[0], image.shape[1]), size)
        image = stored
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def check_claims(header: Header, length: int, name: str, size: tuple[int, int] | None = None) -> None:
    """Check what an image's header claims, before memory is taken for it.

    Args:
        header: of the file.
        length: bytes of the file.
        name: what complaints call the image.
        size: (h, w) that the image has to have, if that is known.

    Raises:
        UserError: many more pixels than ``size`` has, or than a file of this length may hold.
    """
    height, width = header.height, header.width
    if size is not None and height * width > max(_SMALL, size[0] * size[1]):
        raise _other_size(name, (height, width), size)
    claim = f"the image {name} claims {width} x {height} pixels (width x height)"
    if not (height and width):
        raise UserError(f"{claim}: it is broken, copy it again or leave it out")
    if height * width > _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise UserError(
            f"{claim}, more than OpenCV decodes ({_MOST_PIXELS} pixels, {_LONGEST_SIDE} a side): "
            "cut it into tiles or make it smaller"
        )
    allowed = max(_FREE_PIXELS, _PIXELS_PER_BYTE * length)
    if height * width > allowed:
        raise UserError(
            f"{claim} in a file of {length} bytes, which is refused from {allowed} pixels on because it may be a "
            "decompression bomb: cut it into tiles or make it smaller"
        )
    check_block(header, name)


def check_block(header: Header, name: str) -> None:
    """Check the largest part that a decoder lays out at once, which a TIFF can make larger than the image.

    Raises:
        UserError: it is out of all proportion to the image, or a pixel has more bits than any image's.
    """
    height, width = header.height, header.width
    if header.block > max(_SMALL, _BLOCK_SHARE * height * width) or header.depth > _DEEPEST:
        raise UserError(
            f"the image {name} has {width} x {height} pixels (width x height) in tiles of {header.block} pixels of "
            f"{header.depth} bits: it is broken, or has to be converted to JPEG or PNG"
        )


def _other_size(name: str, found: tuple[int, int], size: tuple[int, int]) -> UserError:
    return UserError(
        f"the image {name} is {found[1]} x {found[0]} pixels (width x height), "
        f"its annotation says {size[1]} x {size[0]}: image and annotation file do not belong together"
    )


def _what_is_wrong(data: bytes) -> str:
    """Why a file has no header that is read here."""
    begun, foreign = format_name(data), foreign_format(data)
    if begun is not None:
        return f"is a broken {begun} without a complete header: copy it again or leave it out"
    if foreign is not None:
        return f"is {foreign}, which is not read here: {_CONVERT}"
    return f"is broken or of a format that is not read here: {_CONVERT}, or leave it out"


def _why_not_decoded(header: Header) -> str:
    """Why OpenCV gives nothing for a file whose header is in order."""
    if header.animated:
        return f"is an animated {header.format}, which OpenCV {cv2.__version__} does not read: {_CONVERT}"
    if header.format in ("GIF", "AVIF", "JPEG 2000"):  # depends on how OpenCV was built
        return f"is broken, or OpenCV {cv2.__version__} does not read {header.format}: {_CONVERT}"
    return f"is a broken {header.format}: copy it again, {_CONVERT} with another program, or leave it out"


def read_bytes(path: str | os.PathLike[str], what: str = "image") -> bytes:
    """Read a file that is to be decoded.

    Args:
        path: the file.
        what: complaints call it, such as ``image``.

    Raises:
        UserError: it is missing, no regular file, cannot be read, or is larger than anything that is decoded.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for without end
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no regular file"
            raise UserError(f"the {what} {path} cannot be read: it is {kind}")
        if state.st_size > _MOST_BYTES:
            raise UserError(f"the {what} {path} has {state.st_size} bytes, more than OpenCV decodes ({_MOST_BYTES})")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"the {what} {path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL within the name
        raise UserError(f"the {what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # some formats raise where others return None; the caller names the file either way
        return None
    return None if image is None or image.size == 0 else np.asarray(image)


def _is_truncated(data: bytes) -> bool:
    """Return whether a JPEG or PNG lacks its end marker; OpenCV fills such an image with gray and says nothing."""
    if data.startswith(_PNG_START):
        return _PNG_END not in data
    if not data.startswith(_JPEG_START):
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:  # the pixels begin; thumbnails with end markers of their own lie behind us
            return data.find(b"\xff\xd9", position) < 0
        if marker in (0x01, *range(0xD0, 0xD8)):  # no length follows
            position += 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    # ran out of file before the pixels: cut in the header. Other garbage is for the decoder to refuse.
    return position + 4 > len(data)
