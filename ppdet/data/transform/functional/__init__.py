"""Pure functions on arrays: what the transforms do, without configuration and random draws."""

from __future__ import annotations
