"""Data: sources, transforms, readers; importing this package registers them all."""

from ppdet.data import collate, reader, source, transform

__all__ = ["collate", "reader", "source", "transform"]
