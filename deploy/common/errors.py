"""The one exception type for mistakes that a user can mend."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake in the input: a missing file, a wrong key, a broken image, an unfit checkpoint.

    The message is one line that names the culprit and what to do about it. Command line tools print it as
    ``error: MESSAGE`` and exit with status 1; a traceback would only hide it.
    """
