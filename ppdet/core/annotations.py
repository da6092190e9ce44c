"""Evaluation of annotations that are stored as text (``from __future__ import annotations``)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from typing import Any, Union

__all__ = ["evaluated"]


class _UnionsForOldPython(ast.NodeTransformer):
    """Rewrites ``X | Y``, which Python 3.9 cannot evaluate, as ``Union[X, Y]``."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.BitOr):
            return node
        pair = ast.Tuple(elts=[node.left, node.right], ctx=ast.Load())
        return ast.Subscript(value=ast.Name(id="__Union", ctx=ast.Load()), slice=pair, ctx=ast.Load())


def evaluated(annotations: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Evaluate annotations one by one, and leave out those that refer to names imported for type checkers only.

    Args:
        annotations: annotation of each name, as text or evaluated already.
        module: name of the module that the annotations are written in.
    """
    source = sys.modules.get(module)  # None for the constructor of ``object``
    namespace = {**(vars(source) if source is not None else {}), "__Union": Union}
    result: dict[str, Any] = {}
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            tree = ast.fix_missing_locations(_UnionsForOldPython().visit(ast.parse(annotation, mode="eval")))
            try:
                # The text comes from source code of this process, never from a configuration.
                annotation = eval(compile(tree, "<annotation>", "eval"), namespace)
            except (NameError, TypeError, AttributeError):
                continue  # cannot be evaluated at run time: the argument is not checked
        result[name] = annotation
    return result
