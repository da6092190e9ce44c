"""Where the optional C++ extension lies once it was built, and how Paddle Inference gets to know its operators."""

from __future__ import annotations

from pathlib import Path

import paddle

from deploy.common.errors import UserError

__all__ = ["HOW_TO_BUILD", "NAME", "library", "register"]

NAME = "htc_ext"
HOW_TO_BUILD = "build it for this machine: python -m ppdet.ext_op"

_BUILD = Path(__file__).resolve().parents[2] / "ppdet" / "ext_op" / "build"
_registered = False


def library() -> Path:
    """The shared library of this Paddle (those of different versions do not mix), whether or not it exists."""
    return _BUILD / f"paddle-{paddle.__version__}" / NAME / f"{NAME}.so"


def register() -> None:
    """Tell Paddle about the operators, once in a process; a graph that has them runs afterwards.

    Raises:
        UserError: the library was not built.
    """
    global _registered
    if _registered:
        return
    if not library().is_file():
        raise UserError(f"the extension for Paddle {paddle.__version__} was not built; {HOW_TO_BUILD}")
    from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

    load_op_meta_info_and_register_op(str(library()))
    _registered = True
