"""Configurations: nodes with the origin of each key, reading and writing YAML, merging, validation, settings."""
