"""A few last seconds for a process that an uncaught C++ exception is about to abort.

gloo throws an exception when a connection to another process closes. In a collective operation that was called from
Python it becomes a RuntimeError, but Paddle does not translate it in ``backward``, where DataParallel exchanges the
gradients: C++ finds no handler and aborts the process, while the thread that could explain the failure
(`ppdet.engine.distributed.peers`) still waits for the interpreter. C++ calls its terminate handler first, which may run
ordinary code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["before_abort"]

_LIBRARIES = ("libstdc++.so.6", "libc++.so.1", "libc++.1.dylib")
_SET_TERMINATE = "_ZSt13set_terminatePFvvE"
"""``std::set_terminate(void (*)())``"""


def _set_terminate() -> Any:
    """Return C++'s ``std::set_terminate``, or None on a system whose C++ library is another one (Windows)."""
    for name in _LIBRARIES:
        with suppress(OSError, AttributeError):
            function = getattr(ctypes.CDLL(name), _SET_TERMINATE)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            return function
    return None


@contextmanager
def before_abort(action: Callable[[], None]) -> Iterator[None]:
    """Context in which ``action`` runs before an uncaught C++ exception aborts the process.

    It runs in the thread that threw the exception, and other threads continue to run.
    """
    set_terminate = _set_terminate()
    if set_terminate is None:
        yield
        return
    kind = ctypes.CFUNCTYPE(None)

    def handle() -> None:
        action()
        if previous:
            kind(previous)()  # prints the exception and aborts

    handler = kind(handle)  # must not be garbage collected while it is installed
    previous = set_terminate(handler)
    try:
        yield
    finally:
        set_terminate(previous)
