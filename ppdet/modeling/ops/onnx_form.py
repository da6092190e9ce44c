"""A switch for the operators that the converter to ONNX does not support in their usual form.

While a graph is traced for the conversion, these operators are expressed by others that it supports. The results in
Paddle are the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import paddle

from ppdet.core.switches import Switches, switched, switches

__all__ = ["in_onnx_form", "onnx_form"]


def onnx_form() -> AbstractContextManager[Switches]:
    """Express operators in a form that converts to ONNX within the block."""
    return switched(onnx=True)


@paddle.jit.not_to_static  # tracing would copy the value that the global has at that moment
def in_onnx_form() -> bool:
    """Return whether the graph being traced will be converted to ONNX."""
    return switches().onnx
