"""What values a constructor parameter takes, as part of its type annotation: ``prob: Fraction``, ``depth: Depth``.

An annotation is checked wherever a value comes from: when a configuration is loaded (the message then names key and
place) and when a registered class is constructed from Python. Write ``Annotated[int, Interval(1, 9)]`` for a range of
its own, and combine freely: ``Sequence[Fraction]``, ``PositiveInt | None``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

__all__ = [
    "All",
    "Ascending",
    "Bins",
    "BoxWeights",
    "Channels",
    "ClassCount",
    "Constraint",
    "Convolutions",
    "DecayType",
    "Entries",
    "Fraction",
    "FractionBelowOne",
    "Interval",
    "Length",
    "NonNegative",
    "NonNegativeInt",
    "OneOf",
    "Positive",
    "PositiveInt",
    "Provides",
    "SemanticClassCount",
    "Side",
    "StageCount",
    "TopN",
    "WorkerCount",
]

LARGEST = 2**31 - 1
"""Largest count: what Paddle's operators hold in an int32."""


class Constraint(ABC):
    """What a value has to fulfil beside its type; goes into ``typing.Annotated``."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Return whether a value of the right type fulfils it."""

    @abstractmethod
    def describe(self, noun: str) -> str:
        """Return ``noun``, the description of the type, with what this demands of it."""


@dataclass(frozen=True)
class Interval(Constraint):
    """Numbers from ``low`` to ``high``, both included unless they are ``open``; None is no limit."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        above = self.low is None or (value > self.low if self.open_low else value >= self.low)
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return bool(above and below)

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        if self.low is not None and self.high is not None and not (self.open_low or self.open_high):
            return f"{noun} between {self.low} and {self.high}"
        low = "" if self.low is None else f"above {self.low}" if self.open_low else f"of at least {self.low}"
        high = "" if self.high is None else f"below {self.high}" if self.open_high else f"of at most {self.high}"
        return f"{noun} {' and '.join(part for part in (low, high) if part)}"


@dataclass(frozen=True)
class Length(Constraint):
    """Lists of ``least`` to ``most`` entries."""

    least: int = 1
    most: int = 1000

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return self.least <= len(value) <= self.most

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{noun} with {count} {'entry' if count == '1' else 'entries'}"


@dataclass(frozen=True)
class Ascending(Constraint):
    """Lists in which every entry is larger than the one before."""

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return all(later > earlier for earlier, later in zip(value, value[1:]))

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return f"{noun} in ascending order"


class OneOf(Constraint):
    """One of a few values. As ``typing.Literal``, but a variable of the plain type can be passed, too."""

    def __init__(self, *choices: Any) -> None:
        self.choices = choices

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return value in self.choices

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return "one of " + ", ".join(repr(choice) for choice in self.choices)


class Entries(Constraint):
    """Mappings with given keys, each of which may be left out.

    Args:
        types: annotation of every key.
    """

    def __init__(self, types: Mapping[str, Any]) -> None:
        self.types = dict(types)

    def accepts(self, value: Any) -> bool:
        """See `Constraint`; ``ppdet.core.config.types`` checks the values."""
        return set(value) <= set(self.types)

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return f"{noun} ({', '.join(self.types)})"


class Provides(Constraint):
    """Classes with certain attributes, for parameters that take an object of the user's choice.

    A class has an attribute if it defines it (a method, a property, a value) or declares its type (``out_channel: int``
    in the body of the class) and sets it in the constructor.
    """

    def __init__(self, *attributes: str) -> None:
        self.attributes = attributes

    def accepts(self, value: Any) -> bool:
        """See `Constraint`; ``value`` is an object or its class."""
        return not self.missing(value)

    def missing(self, value: Any) -> list[str]:
        """Return the attributes that an object or a class does not have."""
        declared: set[str] = set()
        if isinstance(value, type):
            declared.update(*(vars(base).get("__annotations__", {}) for base in value.__mro__))
        return [name for name in self.attributes if name not in declared and not hasattr(value, name)]

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return f"a class with {', '.join(self.attributes)}"


Positive = Annotated[float, Interval(low=0, open_low=True)]
NonNegative = Annotated[float, Interval(low=0)]
Fraction = Annotated[float, Interval(0, 1)]
"""A share, a probability, an IoU, a score."""
FractionBelowOne = Annotated[float, Interval(0, 1, open_high=True)]
PositiveInt = Annotated[int, Interval(1, LARGEST)]
NonNegativeInt = Annotated[int, Interval(0, LARGEST)]

Channels = Annotated[int, Interval(1, 8192)]
"""Channels of a feature map or width of a layer; the limit keeps a slip of the pen from taking all memory."""
Bins = Annotated[int, Interval(1, 64)]
"""Bins of a RoI feature, or pixels of a mask map, per axis."""
BoxWeights = Annotated[Sequence[Positive], Length(4, 4)]
"""Four positive numbers, one for each of a box's deltas (x, y, w, h)."""
Convolutions = Annotated[int, Interval(0, 64)]
"""Number of convolutions in a row."""
StageCount = Annotated[int, Interval(1, 16)]
"""Number of stages of a cascade."""
ClassCount = Annotated[int, Interval(1, 65536)]
SemanticClassCount = Annotated[int, Interval(1, 255)]
"""Classes of a semantic map, whose labels are bytes of which 255 is "unlabelled"."""
Side = Annotated[int, Interval(1, 65536)]
"""Height, width or side in pixels."""
TopN = Annotated[int, Interval(1, 1_000_000)]
"""How many of the best are kept, in fixed slots."""
DecayType = Annotated[str, OneOf("threshold", "normal", "exponential")]
"""How the decay of averaged weights grows."""
WorkerCount = Annotated[int, Interval(0, 256)]
"""Processes that load data; 0 loads in the main process."""
All = Literal[-1]
"""-1 in a place where it stands for no limit."""
