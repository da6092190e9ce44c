"""Valid values of constructor parameters as part of their type annotations: ``prob: Fraction``, ``depth: Depth``.

Annotations are checked when a configuration is loaded (the message then contains the key and its origin) and when a
registered class is constructed from Python. Use ``Annotated[int, Interval(1, 9)]`` for an individual range, and combine
freely: ``Sequence[Fraction]``, ``PositiveInt | None``.
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
"""Largest count: Paddle's operators store counts as int32."""


class Constraint(ABC):
    """A condition on a value in addition to its type, for use in ``typing.Annotated``."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Return whether a value of the right type satisfies the condition."""

    @abstractmethod
    def describe(self, noun: str) -> str:
        """Return the description of the condition; ``noun`` describes the type."""


@dataclass(frozen=True)
class Interval(Constraint):
    """Numbers from ``low`` to ``high``, including both unless they are ``open``; None means no limit."""

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
    """Lists with ``minimum`` to ``maximum`` entries."""

    minimum: int = 1
    maximum: int = 1000

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return self.minimum <= len(value) <= self.maximum

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        count = f"{self.minimum}" if self.minimum == self.maximum else f"{self.minimum} to {self.maximum}"
        return f"{noun} with {count} {'entry' if count == '1' else 'entries'}"


@dataclass(frozen=True)
class Ascending(Constraint):
    """Lists in strictly ascending order."""

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return all(later > earlier for earlier, later in zip(value, value[1:]))

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return f"{noun} in ascending order"


class OneOf(Constraint):
    """One of a few values. Unlike ``typing.Literal``, type checkers accept variables of the plain type."""

    def __init__(self, *choices: Any) -> None:
        self.choices = choices

    def accepts(self, value: Any) -> bool:
        """See `Constraint`."""
        return value in self.choices

    def describe(self, noun: str) -> str:
        """See `Constraint`."""
        return "one of " + ", ".join(repr(choice) for choice in self.choices)


class Entries(Constraint):
    """Mappings with the given keys, all of which are optional.

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
"""A ratio, probability, IoU or score."""
FractionBelowOne = Annotated[float, Interval(0, 1, open_high=True)]
PositiveInt = Annotated[int, Interval(1, LARGEST)]
NonNegativeInt = Annotated[int, Interval(0, LARGEST)]

Channels = Annotated[int, Interval(1, 8192)]
"""Channels of a feature map or width of a layer; the limit prevents a typing error from exhausting the memory."""
Bins = Annotated[int, Interval(1, 64)]
"""Bins of a RoI feature, or pixels of a mask map, per axis."""
BoxWeights = Annotated[Sequence[Positive], Length(4, 4)]
"""Four positive numbers, one for each box delta (x, y, w, h)."""
Convolutions = Annotated[int, Interval(0, 64)]
"""Number of consecutive convolutions."""
StageCount = Annotated[int, Interval(1, 16)]
"""Number of stages of a cascade."""
ClassCount = Annotated[int, Interval(1, 65536)]
SemanticClassCount = Annotated[int, Interval(1, 255)]
"""Number of classes of a semantic map; labels are bytes, and 255 means "unlabelled"."""
Side = Annotated[int, Interval(1, 65536)]
"""Height, width or side in pixels."""
TopN = Annotated[int, Interval(1, 1_000_000)]
"""Number of the best candidates that are kept, in fixed slots."""
DecayType = Annotated[str, OneOf("threshold", "normal", "exponential")]
"""How the decay of the averaged weights grows."""
WorkerCount = Annotated[int, Interval(0, 256)]
"""Number of processes that load data; 0 loads in the main process."""
All = Literal[-1]
"""-1, meaning no limit."""
