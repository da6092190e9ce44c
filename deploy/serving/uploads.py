"""Extraction and decoding of uploaded images within the limits."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from python_multipart.multipart import MultipartParser, parse_options_header

from deploy.common.errors import UserError
from deploy.common.extra_inputs import ExtraInputs
from deploy.common.image_header import foreign_format
from deploy.common.image_io import decode_image
from deploy.common.printable import one_line

__all__ = [
    "FRAMING",
    "MAX_EXTRA_BYTES",
    "Limits",
    "Refusal",
    "Upload",
    "check_type",
    "decode",
    "extra_values",
    "image_size",
    "read_upload",
    "too_large",
]

FRAMING = 64 * 1024
"""Maximum size in bytes of the rest of a multipart body: boundaries, headers, other fields."""

MAX_EXTRA_BYTES = 1 << 20
"""Size of the JSON with the extra inputs of an image."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Formats whose size is read from the header by Pillow, detected by the same signatures as in OpenCV."""


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status of the response.
        reason: one-line message for the client.
        headers: headers of the response.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        max_bytes: maximum size of the image file in bytes.
        max_pixels: maximum number of pixels of the image.
        timeout: maximum number of seconds from the start of the request to its response.
        queue_size: maximum number of accepted requests in addition to those of the current batch.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000
    timeout: float = 60.0
    queue_size: int = 32


def check_type(content_type: str) -> None:
    """Check that the body is an image or a form.

    Raises:
        Refusal: 415 if it is neither.
    """
    kind = _media_type(content_type)
    if kind != "multipart/form-data" and not kind.startswith("image/"):
        raise Refusal(
            415,
            "send the image as the multipart field 'file', or as the body with its type in Content-Type "
            f"(such as image/jpeg); got {f'Content-Type {one_line(kind, 80)}' if kind else 'no Content-Type'}",
        )


class Upload(NamedTuple):
    """The content of the body of a request.

    Attributes:
        image: the image file.
        extra: JSON with the extra inputs of the image, None if there is no such field.
    """

    image: bytes
    extra: bytes | None = None


def read_upload(body: bytes, content_type: str, max_bytes: int) -> Upload:
    """Extract the image file and the extra inputs from the body of a request.

    Args:
        body: the body.
        content_type: Content-Type header of the request, see `check_type`.
        max_bytes: maximum size of the image file in bytes.

    Raises:
        Refusal: 400 if there is no image or the form is malformed, 413 if a field is too large.
    """
    is_form = _media_type(content_type) == "multipart/form-data"
    upload = _form_upload(body, content_type) if is_form else Upload(body)
    if len(upload.image) > max_bytes:
        raise too_large(max_bytes)
    if upload.extra is not None and len(upload.extra) > MAX_EXTRA_BYTES:
        raise Refusal(413, f"the field 'extra_inputs' is larger than {MAX_EXTRA_BYTES} bytes")
    if not upload.image:
        raise Refusal(400, "the uploaded image is empty")
    return upload


def extra_values(text: bytes | None, inputs: ExtraInputs) -> dict[str, np.ndarray]:
    """Read the extra inputs of an image.

    Args:
        text: JSON, a mapping from names to values; None if there is none.
        inputs: extra inputs of the model.

    Raises:
        Refusal: 400 if the text is not valid JSON, 422 if values are missing or do not fit the model.
    """
    try:
        values = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise Refusal(400, "the field 'extra_inputs' is not valid JSON") from error
    try:
        return inputs.of_image(values, "extra_inputs")
    except UserError as error:
        remedy = "" if text is not None else "; send it as JSON in the multipart field 'extra_inputs'"
        raise Refusal(422, f"{error}{remedy}") from error


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a file with more than ``max_bytes``."""
    return Refusal(413, f"the image file exceeds the limit of {max_bytes} bytes of this service")


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Read the size of an image from its header without decoding it.

    Args:
        data: content of the file.
        max_pixels: maximum number of pixels.

    Returns:
        The stored (h, w), before the EXIF orientation is applied.

    Raises:
        Refusal: 400 if the data is not an image, 413 if it has (or claims to have) too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"the image exceeds the limit of {max_pixels} pixels of this service") from error
    except Exception as error:  # Pillow raises arbitrary exceptions for broken files
        foreign = foreign_format(data)
        if foreign is not None:
            raise Refusal(400, f"the uploaded file is {foreign}; convert it to JPEG or PNG") from error
        formats = ", ".join(_FORMATS)
        raise Refusal(400, f"the uploaded file is not a valid image; supported formats are {formats}") from error
    if width * height > max_pixels:
        raise Refusal(
            413,
            f"the image has {width} x {height} = {width * height} pixels; the limit of this service is {max_pixels}",
        )
    return height, width


def decode(data: bytes) -> np.ndarray:
    """Decode an image file to uint8 [h, w, 3] RGB; see :func:`deploy.common.image_io.decode_image`.

    Raises:
        Refusal: 400 if the image is broken or truncated.
    """
    try:
        return decode_image(data, "that was uploaded")
    except UserError as error:
        raise Refusal(400, str(error)) from error


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


@dataclass
class _Form:
    """Collects the known fields of a multipart body; the file name of the client is ignored."""

    fields: dict[bytes, list[bytearray]] = field(default_factory=lambda: {b"file": [], b"extra_inputs": []})
    current: bytearray | None = None
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)

    def part_begins(self) -> None:
        self.current = None

    def header_ends(self) -> None:
        if bytes(self.header).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self.value))
            values = self.fields.get(options.get(b"name", b""))
            if values is not None:
                self.current = bytearray()
                values.append(self.current)
        self.header.clear()
        self.value.clear()

    def add_header(self, chunk: bytes, begin: int, end: int) -> None:
        self.header += chunk[begin:end]

    def add_value(self, chunk: bytes, begin: int, end: int) -> None:
        self.value += chunk[begin:end]

    def add_data(self, chunk: bytes, begin: int, end: int) -> None:
        if self.current is not None:
            self.current += chunk[begin:end]


def _form_upload(body: bytes, content_type: str) -> Upload:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refusal(400, "the Content-Type of the form has no boundary")
    form = _Form()
    complete: list[bool] = []
    callbacks: Any = {
        "on_part_begin": form.part_begins,
        "on_header_field": form.add_header,
        "on_header_value": form.add_value,
        "on_header_end": form.header_ends,
        "on_part_data": form.add_data,
        "on_end": lambda: complete.append(True),
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except ValueError as error:  # includes FormParserError
        raise Refusal(400, f"the form is malformed: {error}") from error
    if not complete:
        raise Refusal(400, "the form is malformed: its end is missing")
    files, extras = form.fields[b"file"], form.fields[b"extra_inputs"]
    if len(files) != 1:
        raise Refusal(400, f"the form must have exactly one field 'file' with the image, but it has {len(files)}")
    if len(extras) > 1:
        raise Refusal(400, f"the form must have at most one field 'extra_inputs', but it has {len(extras)}")
    return Upload(bytes(files[0]), bytes(extras[0]) if extras else None)
