"""Helpers without knowledge of models or data."""
