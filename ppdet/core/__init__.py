"""Configuration, and building of objects from it."""
