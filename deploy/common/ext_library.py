"""Where the optional C++ extension lies once it was built, and how Paddle Inference gets to know its operators."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import paddle

from deploy.common.errors import UserError

__all__ = ["HOW_TO_BUILD", "NAME", "THREADS", "library", "register", "sources"]

NAME = "htc_ext"
HOW_TO_BUILD = "build it for this machine: python -m ppdet.ext_op"

_HOME = Path(__file__).resolve().parents[2] / "ppdet" / "ext_op"
THREADS = "HTC_EXT_THREADS"
"""Environment variable: threads of an operator; by default one for each core."""

_registered = False


def library() -> Path:
    """The shared library, whether or not it exists: its folder is that of this Paddle and of this source."""
    source = b"".join(path.read_bytes() for path in sources())
    return _HOME / "build" / f"paddle-{paddle.__version__}-{zlib.crc32(source):08x}" / NAME / f"{NAME}.so"


def sources() -> list[Path]:
    """The C++ files."""
    return sorted(_HOME.glob("*.cc")) + sorted(_HOME.glob("*.h"))


def register(threads: int | None = None) -> None:
    """Tell Paddle about the operators, once in a process; a graph that has them runs afterwards.

    Args:
        threads: how many an operator uses, in the whole process; None leaves that as it is.

    Raises:
        UserError: the library was not built.
    """
    global _registered
    if threads is not None:
        os.environ[THREADS] = str(threads)
    if _registered:
        return
    if not library().is_file():
        raise UserError(f"the extension for Paddle {paddle.__version__} was not built; {HOW_TO_BUILD}")
    from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

    load_op_meta_info_and_register_op(str(library()))
    _registered = True
