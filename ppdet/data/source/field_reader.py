"""The interface for reading further fields of objects from an annotation file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from ppdet.data.source.values import show
from ppdet.structures.fields import Field
from ppdet.utils.errors import UserError

__all__ = ["FieldReader", "check_fields"]


class FieldReader(Protocol):
    """Reads one field of the objects of an image from their annotations."""

    def flaw(self, annotation: Mapping[str, Any]) -> str | None:
        """Return what is wrong with an annotation, to follow ``annotation 7 in a.json``; None if nothing is."""
        ...

    def read(self, annotations: Sequence[Mapping[str, Any]]) -> Field:
        """Return the field of the objects of one image, a row for each; there may be none."""
        ...


def check_fields(
    readers: Mapping[str, FieldReader], grouped: Mapping[int, Sequence[Mapping[str, Any]]], path: str
) -> None:
    """Check the further fields of all annotations.

    Args:
        readers: by the key of the field.
        grouped: annotations of each image id.
        path: the annotation file, for messages.

    Raises:
        UserError: an annotation is not as its reader expects it.
    """
    for reader in readers.values():
        for annotation in chain.from_iterable(grouped.values()):
            flaw = reader.flaw(annotation)
            if flaw is not None:
                raise UserError(f"annotation {show(annotation.get('id', '?'))} in {path} {flaw}")
