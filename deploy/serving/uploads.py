"""From a request's body to pixels: nothing is decoded, or kept, beyond the limits."""

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
"""Bytes of a multipart body around the image: boundaries, headers, other fields."""

MAX_EXTRA_BYTES = 1 << 20
"""Size of the JSON with the extra inputs of an image."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Pillow reads the size of these from the header, by the same signatures that OpenCV goes by."""


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of the answer.
        reason: one line for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        max_bytes: size of the image file.
        max_pixels: height times width of the image.
        timeout: seconds from the request's begin to its answer.
        queue_size: requests under way besides those being computed.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000
    timeout: float = 60.0
    queue_size: int = 32


def check_type(content_type: str) -> None:
    """Refuse a body that is neither an image nor a form.

    Raises:
        Refusal: 415.
    """
    kind = _media_type(content_type)
    if kind != "multipart/form-data" and not kind.startswith("image/"):
        raise Refusal(
            415,
            "send the image as the multipart field 'file', or as the body with its type in Content-Type "
            f"(such as image/jpeg); got {f'Content-Type {one_line(kind, 80)}' if kind else 'no Content-Type'}",
        )


class Upload(NamedTuple):
    """The contents of a request's body.

    Attributes:
        image: the image file.
        extra: JSON with the extra inputs of the image, None if there is no such field.
    """

    image: bytes
    extra: bytes | None = None


def read_upload(body: bytes, content_type: str, max_bytes: int) -> Upload:
    """Take the image file and the extra inputs out of a request's body.

    Args:
        body: as it came.
        content_type: header of the request, see `check_type`.
        max_bytes: limit of the image file's size.

    Raises:
        Refusal: 400 without an image or with a malformed form, 413 with a field that is too large.
    """
    is_form = _media_type(content_type) == "multipart/form-data"
    upload = _form_upload(body, content_type) if is_form else Upload(body)
    if len(upload.image) > max_bytes:
        raise too_large(max_bytes)
    if upload.extra is not None and len(upload.extra) > MAX_EXTRA_BYTES:
        raise Refusal(413, f"the field 'extra_inputs' is larger than {MAX_EXTRA_BYTES} bytes")
    if not upload.image:
        raise Refusal(400, "the image that was sent is empty")
    return upload


def extra_values(text: bytes | None, inputs: ExtraInputs) -> dict[str, np.ndarray]:
    """Read the extra inputs of an image.

    Args:
        text: JSON, a mapping from names to values; None if there is none.
        inputs: what the model requires.

    Raises:
        Refusal: 400 for something else than JSON, 422 for values that are missing or do not fit the model.
    """
    try:
        values = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without end
        raise Refusal(400, "the field 'extra_inputs' is not valid JSON") from error
    try:
        return inputs.of_image(values, "extra_inputs")
    except UserError as error:
        remedy = "" if text is not None else "; send it as JSON in the multipart field 'extra_inputs'"
        raise Refusal(422, f"{error}{remedy}") from error


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a file of more than ``max_bytes``."""
    return Refusal(413, f"the image file is larger than the {max_bytes} bytes that this service takes")


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Read the size from an image file's header; its pixels stay as they are.

    Args:
        data: content of the file.
        max_pixels: most pixels that the image may have.

    Returns:
        (h, w) as stored, before an EXIF orientation is applied.

    Raises:
        Refusal: 400 for something that is no image, 413 for one that has (or claims to have) too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"the image has more pixels than the {max_pixels} that this service takes") from error
    except Exception as error:  # Pillow's readers raise whatever their arithmetic on broken bytes leads to
        foreign = foreign_format(data)
        if foreign is not None:
            raise Refusal(400, f"what was sent is {foreign}: convert it to JPEG or PNG") from error
        raise Refusal(400, f"what was sent is no image, or a broken one (it may be {', '.join(_FORMATS)})") from error
    if width * height > max_pixels:
        raise Refusal(
            413,
            f"the image has {width} x {height} = {width * height} pixels, this service takes at most {max_pixels}",
        )
    return height, width


def decode(data: bytes) -> np.ndarray:
    """Decode an image file, uint8 [h, w, 3] RGB; see :func:`deploy.common.image_io.decode_image`.

    Raises:
        Refusal: 400, broken or truncated.
    """
    try:
        return decode_image(data, "that was sent")
    except UserError as error:
        raise Refusal(400, str(error)) from error


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


@dataclass
class _Form:
    """Collects the fields of a multipart body that have a meaning; the client's file name is never looked at."""

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
        raise Refusal(400, "the form has no boundary in its Content-Type")
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
    except ValueError as error:  # its FormParserError is one
        raise Refusal(400, f"the form is malformed: {error}") from error
    if not complete:
        raise Refusal(400, "the form is malformed: its end is missing")
    files, extras = form.fields[b"file"], form.fields[b"extra_inputs"]
    if len(files) != 1:
        raise Refusal(400, f"the form must have one field 'file' with the image, it has {len(files)}")
    if len(extras) > 1:
        raise Refusal(400, f"the form must have one field 'extra_inputs' at most, it has {len(extras)}")
    return Upload(bytes(files[0]), bytes(extras[0]) if extras else None)
