"""Python files outside of the tree whose classes configurations may name: ``--plugins my_detector.py``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ppdet.utils.errors import UserError

__all__ = ["import_plugins"]


def import_plugins(paths: Iterable[str]) -> None:
    """Import Python files, so that the classes they register become available to configurations.

    A file is imported as a top-level module, and its folder is added to ``sys.path``. So files in the same folder can
    import each other, and the processes that load data find the classes of a dataset.

    Args:
        paths: the files; one that is already imported is not imported again.

    Raises:
        UserError: a file does not exist, is no Python file, has the name of another module, or fails when imported.
    """
    for path in paths:
        _import(path)


def _import(path: str) -> None:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"--plugins: the file {path} does not exist")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UserError(f"--plugins: {path} is not a Python module; the name must be an identifier followed by .py")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(file.stem)
    except ValueError:  # a module without specification, such as __main__
        spec = None
    origin = spec.origin if spec is not None and spec.origin else "a module of Python"
    if spec is None or not spec.has_location or Path(origin).resolve() != file.resolve():
        raise UserError(f"--plugins: the name of {path} is taken by {origin}: rename the file")
    try:
        importlib.import_module(file.stem)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == file.resolve()]
        line = f", line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())
        raise UserError(f"--plugins: importing {path} fails{line}: {type(error).__name__}: {reason}") from error
