"""The classes of a dataset, which are stored in weights, run folders and exported models."""

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
"""Number of classes that a message names."""
SHOWN_CHARACTERS = 40
"""Number of characters of a class name that a message shows."""
MAX_NAME_LENGTH = 1000
"""A record with a longer class name is rejected as corrupt."""
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and unpaired surrogates."""
MAX_CLASSES = 10_000
"""A record with more classes is rejected as corrupt."""


@dataclass(frozen=True)
class Categories:
    """Class names and category ids, in the order of the classes 0..K-1.

    Attributes:
        names: name of each class.
        ids: category id of each class in the dataset.

    Raises:
        ValueError: there is no class, the lists have different lengths, an entry has another type, or an id is
            repeated.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.ids) or len(self.names) > MAX_CLASSES:
            raise ValueError(f"{len(self.names)} names and {len(self.ids)} ids")
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError("a class name is not a string")
        if not all(type(category_id) is int for category_id in self.ids) or len(set(self.ids)) != len(self.ids):
            raise ValueError("the category ids are not different integers")

    def __len__(self) -> int:
        """Return the number of classes, K."""
        return len(self.names)

    @classmethod
    def coco(cls) -> Categories:
        """Return COCO's 80 object classes."""
        return cls(tuple(COCO_CATEGORIES.values()), tuple(COCO_CATEGORIES))

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Categories:
        """Return categories of these names; their ids are COCO's if the names are COCO's, and 1..K otherwise."""
        coco = cls.coco()
        if _plain(names) == _plain(coco.names):
            return coco
        return cls(tuple(names), tuple(range(1, len(names) + 1)))

    @classmethod
    def numbered(cls, count: int) -> Categories:
        """Return ``class 1`` to ``class K``, for classes whose names are not known."""
        return cls(tuple(f"class {number}" for number in range(1, count + 1)), tuple(range(1, count + 1)))

    def to_json(self) -> str:
        """Return the categories as JSON, in the form of an annotation file and in one line of ASCII."""
        return json.dumps([{"id": category_id, "name": name} for category_id, name in zip(self.ids, self.names)])

    @classmethod
    def from_json(cls, text: str | bytes) -> Categories:
        """Read the output of `to_json`.

        Raises:
            ValueError: the text is anything else.
        """
        try:
            content = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise ValueError("it is not a list of categories")
        read = cls(tuple(entry.get("name") for entry in content), tuple(entry.get("id") for entry in content))
        if any(len(name) > MAX_NAME_LENGTH or _UNWRITABLE.search(name) for name in read.names):
            raise ValueError("a class name is too long or has control characters")
        if any(abs(category_id) >= 1 << 63 for category_id in read.ids):
            raise ValueError("a category id exceeds 64 bits")
        return read

    def difference(self, other: Categories, ours: str, theirs: str) -> str | None:
        """Describe how two lists of classes differ in names or order; return None if they agree.

        Case is ignored, and blanks, underscores and hyphens between words are equivalent (``traffic_light`` is
        ``traffic light``). Category ids may differ, because each dataset is used with its own.

        Args:
            other: the classes to compare with.
            ours: owner of these classes, for the message.
            theirs: owner of the other classes, for the message.

        Returns:
            One line, such as ``a.json has 3 classes, b.json has 2; only in a.json: fish``.
        """
        our_names, their_names = _plain(self.names), _plain(other.names)
        if our_names == their_names:
            return None
        only = [name for name, plain in zip(self.names, our_names) if plain not in set(their_names)]
        others = [name for name, plain in zip(other.names, their_names) if plain not in set(our_names)]
        faults = [f"only in {where}: {listed(names)}" for where, names in ((ours, only), (theirs, others)) if names]
        counts = f"{ours} has {_count(len(self))}, {theirs} has {len(other)}" if len(self) != len(other) else ""
        if not faults and not counts:
            place = next(index for index, pair in enumerate(zip(our_names, their_names)) if pair[0] != pair[1])
            faults = [
                f"in another order: class {place} is '{shown(self.names[place])}' in {ours} and "
                f"'{shown(other.names[place])}' in {theirs}"
            ]
        return "; ".join([*([counts] if counts else []), *faults])


def categories_of(dataset: Any) -> Categories | None:
    """Return the classes of a dataset, or None if it has no information about them."""
    names, ids = getattr(dataset, "class_names", None), getattr(dataset, "category_ids", None)
    if not names or not ids:
        return None
    return Categories(tuple(str(name) for name in names), tuple(int(category_id) for category_id in ids))


def require_same_classes(ours: Categories | None, our_name: str, theirs: Categories | None, their_name: str) -> None:
    """Compare two lists of classes by name, unless one of them is unknown.

    Raises:
        UserError: the lists differ.
    """
    if ours is None or theirs is None:
        return
    difference = ours.difference(theirs, our_name, their_name)
    if difference:
        raise UserError(
            f"{our_name} and {their_name} have different classes: {difference}; use files with the same classes or, if "
            "the same classes are meant, rename the categories in the annotation file"
        )


def shown(name: str) -> str:
    """Return a class name in a form that is safe to print in a message."""
    return one_line(name, SHOWN_CHARACTERS)


def listed(names: Iterable[str]) -> str:
    """Join class names for a message; of a long list only the first ones are named."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more


def _plain(names: Iterable[str]) -> list[str]:
    return [" ".join(name.casefold().replace("_", " ").replace("-", " ").split()) for name in names]


def _count(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
