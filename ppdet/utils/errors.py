"""The one exception type for mistakes that a user can mend; deployment has the same."""

from __future__ import annotations

from deploy.common.errors import UserError

__all__ = ["UserError"]
