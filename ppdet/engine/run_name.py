"""The name of a configuration's runs, and the folder that follows from it."""

from __future__ import annotations

import re
from pathlib import Path

from ppdet.core.config.settings import RuntimeSettings
from ppdet.core.workspace import Config
from ppdet.utils.errors import UserError

__all__ = ["run_folder", "run_name"]


def run_name(config: Config) -> str:
    """Return the name of a configuration's runs and exports.

    It is ``run_name`` if that is set, otherwise the name of the configuration's file without extension.

    Raises:
        UserError: ``run_name`` cannot be the name of a folder.
    """
    chosen = RuntimeSettings.from_config(config).run_name
    if chosen is None:
        return Path(config.filename).stem or "run"
    name = str(chosen)
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name) or len(name.encode()) > 200:
        raise UserError(
            f"run_name is the name of a folder within save_dir, which {name[:60]!r} cannot be; "
            "set save_dir to choose another place"
        )
    return name


def run_folder(config: Config) -> Path:
    """Return the folder of a configuration's runs."""
    return Path(RuntimeSettings.from_config(config).save_dir or "output") / run_name(config)
