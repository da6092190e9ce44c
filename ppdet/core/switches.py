"""Process-wide switches that models read while they compute; entered and left as a context."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Switches", "switched", "switches"]


@dataclass(frozen=True)
class Switches:
    """The state of the switches.

    Like Paddle's device they hold for the whole process, threads included.

    Attributes:
        extension: predictions on a CPU use the compiled extension (:mod:`ppdet.ext_op`).
        count_processes: number of processes over which the divisors of losses are summed; 1: each process uses its own
            (:mod:`ppdet.modeling.losses.divisor`).
        onnx: a graph is being traced for the conversion to ONNX (:mod:`ppdet.modeling.ops.onnx_form`).
    """

    extension: bool = False
    count_processes: int = 1
    onnx: bool = False


_switches = Switches()


def switches() -> Switches:
    """Return the present state."""
    return _switches


@contextmanager
def switched(**changes: Any) -> Iterator[Switches]:
    """Change switches inside the block and restore the previous state at its end; blocks may be nested.

    Args:
        **changes: new values by attribute of :class:`Switches`.
    """
    global _switches
    before = _switches
    _switches = dataclasses.replace(before, **changes)
    try:
        yield _switches
    finally:
        _switches = before
