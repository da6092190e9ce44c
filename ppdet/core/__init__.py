"""Configurations, the registry of classes that they can name, and building objects from them."""
