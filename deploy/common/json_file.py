"""Reading JSON files of unknown origin."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from deploy.common.errors import UserError

__all__ = ["read_json"]


def read_json(path: str | os.PathLike[str], what: str, remedy: str) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Args:
        path: the file.
        what: description of the file in error messages, such as ``annotation file``.
        remedy: what to do if it is missing.

    Returns:
        The content. NaN and Infinity, which are not part of JSON, are returned as floats; callers have to check
        numbers.

    Raises:
        UserError: a missing file, one that cannot be read, or anything other than JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"the {what} {path} does not exist: {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} cannot be read: it is not UTF-8 text; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"the {what} {path} cannot be read: it is not valid JSON, or it is truncated ({error})"
        ) from error
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise UserError(f"the {what} {path} cannot be read: its lists are nested too deeply") from error
    except MemoryError as error:
        raise UserError(f"the {what} {path} cannot be read: it does not fit into memory") from error
    except ValueError as error:  # an integer of thousands of digits, or a NUL within the path
        raise UserError(f"the {what} {path} cannot be read: {str(error).partition(';')[0]}") from error
