"""The exception type for errors that a user can fix."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """An error in the input, such as a missing file, an invalid key, a broken image or an unsuitable checkpoint.

    The message is a single line that names the cause and the solution. Command line tools print it as ``error:
    MESSAGE``, without a traceback, and exit with status 1.
    """
