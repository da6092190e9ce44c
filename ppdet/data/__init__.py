"""Datasets, transforms and readers; importing this package registers all of them."""

from ppdet.data import collate, reader, source, transform

__all__ = ["collate", "reader", "source", "transform"]
