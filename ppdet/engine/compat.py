"""Options of PaddleDetection's command lines that have no effect here, accepted so that existing scripts work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ppdet.utils.logger import setup_logger

__all__ = ["add_ignored", "explain_ignored"]

logger = setup_logger(__name__)


def add_ignored(parser: argparse.ArgumentParser, reasons: Mapping[str, str]) -> None:
    """Add options that have no effect, each with an optional value.

    Args:
        parser: the parser to add them to.
        reasons: why they have no effect, by option with its dashes.
    """
    for name, reason in reasons.items():
        parser.add_argument(name, nargs="?", const=True, default=None, metavar="…", help=f"has no effect: {reason}")


def explain_ignored(arguments: argparse.Namespace, reasons: Mapping[str, str]) -> None:
    """Log a line for each of these options that was given, unless its value switches it off."""
    for name, reason in reasons.items():
        value = getattr(arguments, name.lstrip("-"))
        if value is not None and str(value).lower() not in ("false", "none", "0", ""):
            logger.warning("%s has no effect: %s", name, reason)
