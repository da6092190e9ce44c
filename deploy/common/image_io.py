"""Reading images from files or from memory, with error messages that contain the name of the image."""

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
"""Size of the largest file that OpenCV can decode from memory."""

_MOST_PIXELS, _LONGEST_SIDE = 2**30, 2**20
"""Limits of OpenCV."""

_FREE_PIXELS, _PIXELS_PER_BYTE = 100_000_000, 100
"""A file may contain this many pixels in total, or this many per byte. Photographs have one to twenty pixels per byte.
An image with a single colour may have a thousand, but is then limited by the total number."""

_SMALL, _BLOCK_SHARE = 4_194_304, 4
"""Images up to this number of pixels are decoded regardless of the annotated size, to report their actual size. A tile
of a TIFF file may have this many pixels, or this many times the number of pixels of the image."""

_DEEPEST = 256
"""Maximum number of bits per pixel: four channels with 64 bits."""

_CONVERT = "convert it to JPEG or PNG"


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as RGB; see `decode_image`.

    Args:
        path: the file.
        size: (h, w) of the image in the annotation file, if there is one.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        UserError: the file is missing, truncated or broken, its format is not supported, its size differs from
            ``size``, or it claims too many pixels for the size of the file.
    """
    return decode_image(read_bytes(path), os.fspath(path), size)


def decode_image(data: bytes, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the bytes of an image file as RGB.

    Grayscale, palette, CMYK and 16-bit images and images with an alpha channel are converted to 8-bit RGB (the lower
    eight of 16 bits and the alpha channel are dropped). The EXIF orientation is applied, as in image viewers and in the
    official code, unless the image only has the annotated size without it, which means that the stored pixels were
    annotated.

    Args:
        data: content of the file.
        name: name of the image in error messages.
        size: (h, w) of the image in the annotation file, if there is one.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        UserError: the image is empty, truncated or broken, its format is not supported, its size differs from ``size``,
            or it claims too many pixels for the size of the file. The header is checked before the image is decoded.
    """
    if not data:
        raise UserError(f"the image {name} is an empty file; copy it again or remove it")
    if _is_truncated(data):
        raise UserError(f"the image {name} is truncated (its end is missing); copy it again or remove it")
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
    """Check the claims of an image header before memory is allocated.

    Args:
        header: header of the image.
        length: size of the file in bytes.
        name: name of the image in error messages.
        size: expected (h, w) of the image, if it is known.

    Raises:
        UserError: the image claims many more pixels than ``size``, or too many for the size of the file.
    """
    height, width = header.height, header.width
    if size is not None and height * width > max(_SMALL, size[0] * size[1]):
        raise _other_size(name, (height, width), size)
    claim = f"the image {name} claims {width} x {height} pixels (width x height)"
    if not (height and width):
        raise UserError(f"{claim}; it is broken, copy it again or remove it")
    if height * width > _MOST_PIXELS or max(height, width) > _LONGEST_SIDE:
        raise UserError(
            f"{claim}, more than OpenCV can decode ({_MOST_PIXELS} pixels, {_LONGEST_SIDE} per side); "
            "split it into tiles or reduce its size"
        )
    allowed = max(_FREE_PIXELS, _PIXELS_PER_BYTE * length)
    if height * width > allowed:
        raise UserError(
            f"{claim}, but a file of {length} bytes may have at most {allowed} pixels to prevent a decompression bomb; "
            "split it into tiles or reduce its size"
        )
    check_block(header, name)


def check_block(header: Header, name: str) -> None:
    """Check the size of the largest block that a decoder allocates at once; in a TIFF, it may be larger than the image.

    Raises:
        UserError: the block is disproportionately large, or a pixel has too many bits.
    """
    height, width = header.height, header.width
    if header.block > max(_SMALL, _BLOCK_SHARE * height * width) or header.depth > _DEEPEST:
        raise UserError(
            f"the image {name} has {width} x {height} pixels (width x height) in tiles of {header.block} pixels of "
            f"{header.depth} bits; if it is not broken, convert it to JPEG or PNG"
        )


def _other_size(name: str, actual: tuple[int, int], size: tuple[int, int]) -> UserError:
    return UserError(
        f"the image {name} is {actual[1]} x {actual[0]} pixels (width x height), "
        f"but {size[1]} x {size[0]} in its annotation; use an annotation file that belongs to the images"
    )


def _what_is_wrong(data: bytes) -> str:
    """Explain why the header of a file cannot be read."""
    known, foreign = format_name(data), foreign_format(data)
    if known is not None:
        return f"is a broken {known} without a complete header; copy it again or remove it"
    if foreign is not None:
        return f"is {foreign}, which is not supported; {_CONVERT}"
    return f"is broken or has an unsupported format; {_CONVERT}, or remove it"


def _why_not_decoded(header: Header) -> str:
    """Explain why OpenCV cannot decode a file with a valid header."""
    if header.animated:
        return f"is an animated {header.format}, which OpenCV {cv2.__version__} does not support; {_CONVERT}"
    if header.format in ("GIF", "AVIF", "JPEG 2000"):  # depends on the build of OpenCV
        return f"is broken, or OpenCV {cv2.__version__} does not support {header.format}; {_CONVERT}"
    return f"is a broken {header.format}; copy it again, {_CONVERT} with another program, or remove it"


def read_bytes(path: str | os.PathLike[str], what: str = "image") -> bytes:
    """Read the content of an encoded image file.

    Args:
        path: path of the file.
        what: description of the file in error messages, such as ``image``.

    Raises:
        UserError: the file is missing, not a regular file, not readable or too large to be decoded.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):  # reading a pipe could block forever
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file"
            raise UserError(f"the {what} {path} cannot be read: it is {kind}")
        if state.st_size > _MOST_BYTES:
            raise UserError(f"the {what} {path} has {state.st_size} bytes, more than OpenCV can decode ({_MOST_BYTES})")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"the {what} {path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: the name contains a null character
        raise UserError(f"the {what} {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for some formats, errors are raised instead of returning None
        return None
    return None if image is None or image.size == 0 else np.asarray(image)


def _is_truncated(data: bytes) -> bool:
    """Return whether the end marker of a JPEG or PNG is missing; OpenCV silently fills such images with gray."""
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
        if marker == 0xDA:  # start of the pixels; thumbnails, which have their own end markers, come before
            return data.find(b"\xff\xd9", position) < 0
        if marker in (0x01, *range(0xD0, 0xD8)):  # marker without a length
            position += 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    # True if the file ends within the header. Other invalid data is detected by the decoder.
    return position + 4 > len(data)
