"""Reading semantic label maps; whatever is wrong with a file is said with its name."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from ppdet.utils.errors import UserError

__all__ = ["read_label_map"]


def read_label_map(path: str | os.PathLike[str], num_classes: int | None, size: tuple[int, int]) -> np.ndarray:
    """Read a semantic label map and check it.

    Gray and palette images (their indices are the labels) are taken as they are; a three-channel image only if its
    channels are identical, since colours are not labels.

    Args:
        path: the file.
        num_classes: labels must be below this, or 255; None checks nothing.
        size: (h, w) of the image that the map belongs to.

    Returns:
        uint8 [h, w], 255 = ignore.

    Raises:
        UserError: a missing or broken file, colours, another size, a label out of range.
    """
    try:
        with Image.open(path) as file:
            values = np.array(file)
    except FileNotFoundError as error:
        raise UserError(f"the semantic map {path} does not exist") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise UserError(f"the semantic map {path} cannot be read: {error}") from error
    if values.ndim == 3:
        if (values[..., :1] != values).any():
            raise UserError(
                f"the semantic map {path} is a colour image ({values.shape[2]} channels): "
                "it must have one channel that holds the labels (COCO-Stuff's stuffthingmaps do)"
            )
        values = values[..., 0]
    if values.shape != tuple(size):
        raise UserError(
            f"the semantic map {path} is {values.shape[1]} x {values.shape[0]} pixels (width x height), "
            f"its image {size[1]} x {size[0]}"
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
