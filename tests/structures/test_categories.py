"""Classes that weights carry, and the comparison by name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ppdet.structures.categories import Categories, categories_of, require_same_classes
from ppdet.utils.errors import UserError

pytestmark = pytest.mark.same_on_every_paddle

SEA = Categories(("fish", "star", "cup"), (3, 7, 9))


def test_round_trip_of_any_name() -> None:
    names = ("鱼", 'a "b", c', "人\u3000行", "👩\u200d🚀", "no", "")
    written = Categories(names, (1, 2, 3, 4, 5, 2**60)).to_json()
    assert written.isascii() and written.isprintable()
    assert Categories.from_json(written) == Categories(names, (1, 2, 3, 4, 5, 2**60))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[{"id": 1, "name": "\\ud800"}]',
        '[{"id": 1, "name": "\\u001b[31m"}]',
        "[]",
        "{}",
        "[1]",
        '[{"id": 1}]',
        '[{"name": "a"}]',
        '[{"id": true, "name": "a"}]',
        '[{"id": 1, "name": 2}]',
        '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]',
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_damaged_records(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        Categories.from_json(text)


def test_comparison_is_by_name_and_order() -> None:
    assert SEA.difference(Categories(SEA.names, (0, 1, 2)), "a", "b") is None
    assert Categories(("traffic_light", "T-Shirt"), (1, 2)).difference(
        Categories(("Traffic Light ", "t shirt"), (5, 6)), "a", "b"
    ) is None  # fmt: skip
    order = SEA.difference(Categories(("fish", "cup", "star"), (1, 2, 3)), "w.pdparams", "val.json")
    assert order == "in another order: class 1 is 'star' in w.pdparams and 'cup' in val.json"
    other = SEA.difference(Categories(("fish", "cup", "cat"), (1, 2, 3)), "w", "v")
    assert other == "only in w: star; only in v: cat"
    fewer = SEA.difference(Categories(("fish",), (1,)), "w", "v")
    assert fewer == "w has 3 classes, v has 1; only in w: star, cup"


def test_a_message_stays_short_and_printable() -> None:
    many = Categories(tuple(f"\x1b[2J{'x' * 1000}{index}" for index in range(500)), tuple(range(500)))
    with pytest.raises(UserError) as caught:
        require_same_classes(SEA, "w.pdparams", many, "val.json")
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    assert "w.pdparams has 3 classes, val.json has 500" in str(caught.value) and "and 496 more" in str(caught.value)
    require_same_classes(None, "w", many, "v")
    require_same_classes(SEA, "w", None, "v")


def test_names_alone() -> None:
    coco = Categories.coco()
    assert (len(coco), coco.ids[-1], coco.names[0]) == (80, 90, "person")
    assert Categories.from_names([name.replace(" ", "_") for name in coco.names]) == coco
    assert Categories.from_names(["a", "b"]).ids == (1, 2)
    assert Categories.numbered(2).names == ("class 1", "class 2")
    assert categories_of(SimpleNamespace(class_names=["a"], category_ids=[4])) == Categories(("a",), (4,))
    assert categories_of(SimpleNamespace()) is None
