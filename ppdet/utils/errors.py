"""The exception for mistakes that a user can correct; the deployment code uses the same class."""

from __future__ import annotations

from deploy.common.errors import UserError

__all__ = ["UserError"]
