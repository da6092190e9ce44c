"""Hybrid Task Cascade instance segmentation and its relatives on PaddlePaddle."""

# Paddle 2.6 exports symbols of its own copy of zlib. Python's module crashes if Paddle is loaded before it.
import zlib  # noqa: F401

__version__ = "0.1.0"
