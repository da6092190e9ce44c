"""Values against annotations, also those that only newer Pythons can evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest

from ppdet.core.config.types import describe, matches
from ppdet.core.registry import class_info

pytestmark = pytest.mark.same_on_every_paddle


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (False, float, False),
        (0, bool, False),
        ("a", str, True),
        (None, None, True),
        (None, Optional[int], True),
        ("a", Optional[int], False),
        ("a", Union[int, str], True),
        ("O3", Literal["O1", "O2"], False),
        ("O1", Literal["O1", "O2"], True),
        (True, Literal[1], False),
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ([1, 2, 3], tuple[int, ...], True),
        ("ab", Sequence[str], False),
        ([[1, 2], [3, 4]], list[tuple[int, int]], True),
        ([[1, 2], [3]], list[tuple[int, int]], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ([], dict, False),
        (object(), Any, True),
        (3, complex, True),  # not one of the kinds that are checked
    ],
)
def test_matches(value: object, annotation: Any, fits: bool) -> None:
    assert matches(value, annotation) is fits


def test_descriptions() -> None:
    assert describe(Union[int, list[float], None]) == "an integer or a list of (a number) or null"
    assert describe(Literal["O1", "O2"]) == "one of 'O1', 'O2'"
    assert describe(tuple[int, int]) == "a list of 2 (an integer, an integer)"


class Annotated:
    def __init__(self, size: int | list[int] | None = None, hidden: NotImported | None = None) -> None:  # noqa: F821
        self.size, self.hidden = size, hidden


def test_annotations_are_evaluated_one_by_one() -> None:
    annotations = class_info(Annotated).annotations
    assert annotations == {"size": Union[int, list[int], None]}
    assert matches([1], annotations["size"]) and not matches("a", annotations["size"])
