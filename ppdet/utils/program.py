"""The kind of static program that is being built."""

from __future__ import annotations

import paddle

__all__ = ["in_legacy_program"]


def in_legacy_program() -> bool:
    """Return whether operators must be appended to a program of the old format (``to_static`` in Paddle 2.6)."""
    if paddle.in_dynamic_mode():
        return False
    in_pir = getattr(paddle.framework, "in_pir_mode", None)
    return in_pir is None or not in_pir()
