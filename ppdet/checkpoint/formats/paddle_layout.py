"""Converting the layouts in which different versions of Paddle store weights to a dictionary of arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppdet.checkpoint.formats.pickle_limits import brief, check_total
from ppdet.utils.errors import UserError

__all__ = ["CLASS_RECORD", "NAME_TABLE", "flat_arrays"]

NAME_TABLE = "StructuredToParameterName@@"
"""Entry that Paddle adds to the tensors, which is not a tensor."""
CLASS_RECORD = "Categories@@"
"""Entry that this project adds to the tensors: the classes, encoded in JSON. Paddle loads it as another array."""
PARTS_TABLE = "UnpackBigParamInfor@@"
"""Entry that describes tensors above a gigabyte, which Paddle splits with pickle protocols 2 and 3."""


def flat_arrays(file: Path, content: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Extract the arrays from the content of a ``.pdparams`` file.

    Args:
        file: the file, for messages.
        content: the content of the file.

    Raises:
        UserError: an entry is neither a tensor nor one of Paddle's tables, or the parts of a tensor do not match.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if name in (NAME_TABLE, PARTS_TABLE):
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # Paddle 2.1: (name, array)
            value = value[1]
        if not isinstance(value, (np.ndarray, np.generic)):
            raise UserError(f"{file}: {brief(name)} is a {type(value).__name__}, not a tensor; is it a weight file?")
        if not isinstance(name, str):
            raise UserError(f"{file}: the name of a tensor is the number {brief(name)}; is it a weight file?")
        arrays[name] = np.asarray(value)
    _join_parts(file, content.get(PARTS_TABLE, {}), arrays)
    return arrays


def _join_parts(file: Path, table: Any, arrays: dict[str, np.ndarray]) -> None:
    """Join the tensors that were split.

    Args:
        file: the file, for messages.
        table: ``{name: {"OriginShape": shape, "slices": [names of the parts]}}``.
        arrays: changed in place: the joined tensors replace their parts.
    """
    if not isinstance(table, dict):
        raise UserError(f"{file}: '{PARTS_TABLE}' is a {type(table).__name__}; the file is damaged")
    check_total(file, arrays.values())
    for name, entry in table.items():
        fields = entry if isinstance(entry, dict) else {}
        shape, names = fields.get("OriginShape"), fields.get("slices")
        complete = isinstance(names, list) and all(isinstance(part, str) and part in arrays for part in names)
        if not complete or not names or len(set(names)) != len(names) or not isinstance(name, str):
            raise UserError(f"{file}: some parts of {brief(name)} are missing; copy or download it again")
        parts = [arrays.pop(part) for part in names]
        try:
            if len({part.dtype for part in parts}) > 1 or not isinstance(shape, tuple):
                raise ValueError("parts of different types, or no shape")
            if any(type(side) is not int or side < 0 for side in shape):
                raise ValueError("an impossible shape")
            arrays[name] = np.concatenate(parts).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{file}: the parts of {brief(name)} cannot be joined to the shape {brief(shape)}; "
                "copy or download it again"
            ) from error
