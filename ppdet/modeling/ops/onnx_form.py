"""A switch for the few operators that do not reach ONNX as they are.

While a graph is traced for the conversion, they are expressed in ways that carry all that ONNX needs to know; the
graph still computes the same in Paddle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle

__all__ = ["in_onnx_form", "onnx_form"]

_active = False


@contextlib.contextmanager
def onnx_form() -> Iterator[None]:
    """Trace for the conversion to ONNX within the block."""
    global _active
    _active = True
    try:
        yield
    finally:
        _active = False


@paddle.jit.not_to_static  # tracing rewrites functions with a copy of the globals of that moment
def in_onnx_form() -> bool:
    """Whether what is traced goes to ONNX."""
    return _active
