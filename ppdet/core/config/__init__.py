"""Configurations: nodes that know their origin, YAML in and out, merging, checking."""
