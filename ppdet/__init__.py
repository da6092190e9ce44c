"""Hybrid Task Cascade instance segmentation and its relatives on PaddlePaddle."""

__version__ = "0.1.0"
