"""A switch for the operators that the converter to ONNX does not support in their usual form.

While a graph is traced for the conversion, these operators are expressed by others that it supports. The results in
Paddle are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import paddle

__all__ = ["in_onnx_form", "onnx_form"]

_active = False


@contextlib.contextmanager
def onnx_form() -> Iterator[None]:
    """Express operators in a form that converts to ONNX within the block."""
    global _active
    _active = True
    try:
        yield
    finally:
        _active = False


@paddle.jit.not_to_static  # tracing would copy the value that the global has at that moment
def in_onnx_form() -> bool:
    """Return whether the graph being traced will be converted to ONNX."""
    return _active
