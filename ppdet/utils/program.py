"""Which kind of program operators are added to."""

from __future__ import annotations

import paddle

__all__ = ["in_legacy_program"]


def in_legacy_program() -> bool:
    """Whether operators must be appended to an old-style program (to_static in Paddle 2.6)."""
    if paddle.in_dynamic_mode():
        return False
    in_pir = getattr(paddle.framework, "in_pir_mode", None)
    return in_pir is None or not in_pir()
