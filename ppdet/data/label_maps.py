"""Reading semantic label maps; error messages name the file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from deploy.common.image_header import read_header
from deploy.common.image_io import check_block, read_bytes
from ppdet.utils.errors import UserError

__all__ = ["read_label_map"]

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP")
"""Formats that can be lossless and whose header states the size. JPEG is lossy and would change labels."""


def read_label_map(path: str | os.PathLike[str], num_classes: int | None, size: tuple[int, int]) -> np.ndarray:
    """Read a semantic label map and check it.

    Gray images are used directly, and palette images by their indices. A three-channel image is accepted only if its
    channels are identical, because colours are not labels.

    Args:
        path: the file.
        num_classes: labels must be less than this, or 255; None for no check.
        size: (h, w) of the image that the map belongs to.

    Returns:
        uint8 [h, w], 255 = ignore.

    Raises:
        UserError: the file is missing or broken, or has another format, colours, non-integer values, another size
            than the image or a label out of range.
    """
    data = read_bytes(path, "semantic map")
    # Check before Pillow allocates memory for the pixels, or for a tile of a TIFF.
    header = read_header(data)
    if header is not None and (header.height, header.width) != tuple(size):
        raise _other_size(path, (header.height, header.width), size)
    if header is not None:
        check_block(header, f"{path} (a semantic map)")
    values = _decoded(data, path)
    if values.ndim == 3:
        if (values[..., :1] != values).any():
            raise UserError(
                f"the semantic map {path} is a colour image ({values.shape[2]} channels): "
                "it must have one channel that holds the labels (COCO-Stuff's stuffthingmaps do)"
            )
        values = values[..., 0]
    if values.shape != tuple(size):
        raise _other_size(path, values.shape, size)
    if values.dtype.kind not in "bui":
        raise UserError(
            f"the semantic map {path} holds {values.dtype.name} numbers: labels are integers, so save them as an "
            "8-bit PNG"
        )
    values = values.astype(np.uint8) if values.dtype == bool else values
    wrong = (values != 255) & ((values < 0) | (values >= min(255 if num_classes is None else num_classes, 255)))
    if wrong.any():
        bound = 255 if num_classes is None else num_classes
        raise UserError(
            f"the semantic map {path} holds the label {int(values[wrong].max())}: labels must be in 0..{bound - 1} "
            "(semantic_num_classes) or 255 for unlabelled pixels"
        )
    return values.astype(np.uint8)


def _decoded(data: bytes, path: str | os.PathLike[str]) -> np.ndarray:
    """Decode an image file of any mode with Pillow."""
    largest = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # the size was compared with that of the decoded image
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            return np.array(file)
    except UnidentifiedImageError as error:
        raise UserError(
            f"the semantic map {path} cannot be read: it is broken or not one of {', '.join(_FORMATS)}"
        ) from error
    except Exception as error:  # on broken files Pillow's readers raise exceptions of any type
        raise UserError(f"the semantic map {path} cannot be read: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = largest


def _other_size(path: str | os.PathLike[str], actual: Sequence[int], size: Sequence[int]) -> UserError:
    return UserError(
        f"the semantic map {path} has {actual[1]} x {actual[0]} pixels (width x height), but its image has "
        f"{size[1]} x {size[0]}"
    )
