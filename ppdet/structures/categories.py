"""The classes of a data set, which weights, run folders and exports carry with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.common.printable import one_line
from ppdet.structures.coco_categories import COCO_CATEGORIES
from ppdet.utils.errors import UserError

__all__ = ["Categories", "categories_of", "listed", "require_same_classes"]

LISTED = 4
"""A message names this many classes."""
LONGEST_NAME = 40
"""Characters of a class name that a message shows."""
LONGEST_RECORDED = 1000
"""Characters of a class name in a record that is still believed."""
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of characters."""
MOST = 10_000
"""Classes of a record that is still believed."""


@dataclass(frozen=True)
class Categories:
    """Class names and category ids, in the order of the classes 0..K-1.

    Attributes:
        names: name of each class.
        ids: the data set's category id of each class.

    Raises:
        ValueError: no class, lists of different lengths, entries of another type, or an id twice.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.ids) or len(self.names) > MOST:
            raise ValueError(f"{len(self.names)} names and {len(self.ids)} ids")
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError("a name that is no text")
        if not all(type(number) is int for number in self.ids) or len(set(self.ids)) != len(self.ids):
            raise ValueError("ids that are no different whole numbers")

    def __len__(self) -> int:
        """Number of classes, K."""
        return len(self.names)

    @classmethod
    def coco(cls) -> Categories:
        """Return COCO's 80 object classes."""
        return cls(tuple(COCO_CATEGORIES.values()), tuple(COCO_CATEGORIES))

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Categories:
        """Add ids to names alone: COCO's where the names are COCO's, else 1..K."""
        coco = cls.coco()
        if _plain(names) == _plain(coco.names):
            return coco
        return cls(tuple(names), tuple(range(1, len(names) + 1)))

    @classmethod
    def numbered(cls, count: int) -> Categories:
        """Return ``class 1`` to ``class K``, for classes that nothing is known of."""
        return cls(tuple(f"class {number}" for number in range(1, count + 1)), tuple(range(1, count + 1)))

    def to_json(self) -> str:
        """Return the categories as an annotation file lists them, one line of ASCII."""
        return json.dumps([{"id": number, "name": name} for number, name in zip(self.ids, self.names)])

    @classmethod
    def from_json(cls, text: str | bytes) -> Categories:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            content = json.loads(text)
        except RecursionError as error:
            raise ValueError("lists within lists") from error
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise ValueError("no list of categories")
        read = cls(tuple(entry.get("name") for entry in content), tuple(entry.get("id") for entry in content))
        if any(len(name) > LONGEST_RECORDED or _UNWRITABLE.search(name) for name in read.names):
            raise ValueError("a name that cannot be written down")
        if any(abs(number) >= 1 << 63 for number in read.ids):
            raise ValueError("an id beyond 64 bits")
        return read

    def difference(self, other: Categories, ours: str, theirs: str) -> str | None:
        """Say how two lists of classes differ by name and order, or None if they do not.

        Case, and whether words are joined by blanks, underscores or hyphens, makes no difference (``traffic_light`` is
        ``traffic light``). Category ids may differ: a data set's own are used with it.

        Args:
            other: what to compare with.
            ours: what these classes belong to, for the message.
            theirs: what the others belong to.

        Returns:
            One line, such as ``a.json has 3 classes, b.json has 2; only in a.json: fish``.
        """
        here, there = _plain(self.names), _plain(other.names)
        if here == there:
            return None
        only = [name for name, plain in zip(self.names, here) if plain not in set(there)]
        others = [name for name, plain in zip(other.names, there) if plain not in set(here)]
        faults = [f"only in {where}: {listed(names)}" for where, names in ((ours, only), (theirs, others)) if names]
        counts = f"{ours} has {_count(len(self))}, {theirs} has {len(other)}" if len(self) != len(other) else ""
        if not faults and not counts:
            place = next(index for index, pair in enumerate(zip(here, there)) if pair[0] != pair[1])
            faults = [
                f"in another order: class {place} is '{shown(self.names[place])}' in {ours} and "
                f"'{shown(other.names[place])}' in {theirs}"
            ]
        return "; ".join([*([counts] if counts else []), *faults])


def categories_of(dataset: Any) -> Categories | None:
    """Return the classes of a data set, None where it does not know any."""
    names, ids = getattr(dataset, "class_names", None), getattr(dataset, "category_ids", None)
    if not names or not ids:
        return None
    return Categories(tuple(str(name) for name in names), tuple(int(number) for number in ids))


def require_same_classes(ours: Categories | None, our_name: str, theirs: Categories | None, their_name: str) -> None:
    """Compare two lists of classes by name; those that are not known are not compared.

    Raises:
        UserError: they differ.
    """
    if ours is None or theirs is None:
        return
    difference = ours.difference(theirs, our_name, their_name)
    if difference:
        raise UserError(
            f"{our_name} and {their_name} are of different classes: {difference}; use those of the same classes, or "
            "rename the categories in the annotation file where the same ones are meant"
        )


def shown(name: str) -> str:
    """Return a class name as a message can print it."""
    return one_line(name, LONGEST_NAME)


def listed(names: Iterable[str]) -> str:
    """Join class names for a message, the first few of many."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more


def _plain(names: Iterable[str]) -> list[str]:
    return [" ".join(name.casefold().replace("_", " ").replace("-", " ").split()) for name in names]


def _count(number: int) -> str:
    return "1 class" if number == 1 else f"{number} classes"
