"""Pure functions on arrays, without configuration and random numbers."""

from __future__ import annotations
