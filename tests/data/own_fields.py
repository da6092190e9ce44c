"""A dataset with a custom target and a custom input; a separate module for worker processes, which need no Paddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppdet.data.source import COCODataSet
from ppdet.data.source.field_reader import FieldReader
from ppdet.structures.fields import ImageField, ObjectField
from ppdet.structures.sample import Sample


class Identities:
    """Reads the id of each annotation."""

    def flaw(self, annotation: Mapping[str, Any]) -> str | None:
        return None

    def read(self, annotations: Sequence[Mapping[str, Any]]) -> ObjectField:
        return ObjectField(np.array([annotation["id"] for annotation in annotations], np.int64))


class Prompted(COCODataSet):
    """Each object has an identity, each image a prompt."""

    def field_readers(self, content: Mapping[str, Any]) -> dict[str, FieldReader]:
        return {**super().field_readers(content), "gt_identity": Identities()}

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.extra["prompt"] = ImageField(np.array([sample.image_id, 0.5], np.float32))
        return sample
