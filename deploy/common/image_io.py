"""Reading images, from files or from memory; whatever is wrong with one is said with its name."""

from __future__ import annotations

import os

import cv2
import numpy as np

from deploy.common.errors import UserError

__all__ = ["decode_image", "read_image"]

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as RGB; see `decode_image`.

    Args:
        path: the file.
        size: (h, w) of the image in the annotation file, if there is one.

    Returns:
        uint8 [h, w, 3] RGB.

    Raises:
        UserError: a missing, truncated or broken file, or one of another size than ``size``.
    """
    return decode_image(_read_bytes(path), os.fspath(path), size)


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
        UserError: an empty, truncated or broken image, or one of another size than ``size``.
    """
    if not data:
        raise UserError(f"the image {name} is an empty file")
    if _is_truncated(data):
        raise UserError(f"the image {name} is truncated (its end is missing): copy it again or leave it out")
    image = _decode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"the image {name} is broken or of a format that OpenCV does not read")
    if size is not None and image.shape[:2] != tuple(size):
        stored = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None or stored.shape[:2] != tuple(size):
            raise UserError(
                f"the image {name} is {image.shape[1]} x {image.shape[0]} pixels (width x height), "
                f"its annotation says {size[1]} x {size[0]}: image and annotation file do not belong together"
            )
        image = stored
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"the image {path} does not exist") from error
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror or error}") from error


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
